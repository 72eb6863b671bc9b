//! JSON as Go's encoding/json writes it: what flannel's plugin saves, hands to its delegate and prints is to be the same
//! to the byte.

use std::fmt::Write as _;

use serde_json::{Number, Value};

const INDENT: &str = "    ";

/// On one line. The keys stay as they are: Go sorts those of a map ([`Value::sort_all_objects`] does), not of a struct.
pub(crate) fn compact(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, None);
    out
}

/// With four spaces of indentation, for people.
pub(crate) fn indented(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, Some(0));
    out
}

fn write(out: &mut String, value: &Value, depth: Option<usize>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&self::number(number)),
        Value::String(text) => string(out, text),
        Value::Array(items) => {
            let items = items.iter().map(|item| (None, item));
            container(out, ['[', ']'], items, depth);
        }
        Value::Object(object) => {
            let entries = object
                .iter()
                .map(|(key, value)| (Some(key.as_str()), value));
            container(out, ['{', '}'], entries, depth);
        }
    }
}

fn container<'a>(
    out: &mut String,
    [open, close]: [char; 2],
    items: impl ExactSizeIterator<Item = (Option<&'a str>, &'a Value)>,
    depth: Option<usize>,
) {
    out.push(open);
    let is_empty = items.len() == 0;
    let inner = depth.map(|depth| depth + 1);
    for (n, (key, value)) in items.enumerate() {
        if n > 0 {
            out.push(',');
        }
        new_line(out, inner);
        if let Some(key) = key {
            string(out, key);
            out.push_str(if depth.is_some() { ": " } else { ":" });
        }
        write(out, value, inner);
    }
    if !is_empty {
        new_line(out, depth);
    }
    out.push(close);
}

fn new_line(out: &mut String, depth: Option<usize>) {
    if let Some(depth) = depth {
        out.push('\n');
        out.extend(std::iter::repeat_n(INDENT, depth));
    }
}

/// HTML's three characters and JavaScript's two line separators are escaped.
fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Go reads every number as a float64 and writes the shortest text that reads as the same one, with an exponent below
/// 1e-6 and from 1e21 on.
fn number(number: &Number) -> String {
    let Some(float) = number.as_f64() else {
        return number.to_string();
    };
    let size = float.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{float:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                format!("{digits}e+{exponent}")
            }
            _ => text,
        };
    }
    format!("{float}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Map, json};

    use super::*;

    #[rstest]
    #[case("1450", "1450")]
    #[case("1.50", "1.5")]
    #[case("1e3", "1000")]
    #[case("1e30", "1e+30")]
    #[case("1e20", "100000000000000000000")]
    #[case("1e21", "1e+21")]
    #[case("12345678901234567890", "12345678901234567000")]
    #[case("0.000001", "0.000001")]
    #[case("0.0000001", "1e-7")]
    #[case("1.5e-10", "1.5e-10")]
    #[case("-3", "-3")]
    #[case("-0.0", "-0")]
    #[case("0", "0")]
    fn numbers_are_gos(#[case] text: &str, #[case] expected: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(compact(&value), expected);
    }

    #[test]
    fn keys_of_a_map_are_in_order_at_every_depth() {
        let mut value = json!({"b": {"z": 1, "a": [{"y": 1, "x": null}]}, "B": true});
        value.sort_all_objects();
        assert_eq!(
            compact(&value),
            r#"{"B":true,"b":{"a":[{"x":null,"y":1}],"z":1}}"#
        );
    }

    #[test]
    fn what_browsers_might_read_is_escaped() {
        let value = json!("<a>&\u{2028}\u{7f}é\"\\\u{1}\t");
        assert_eq!(
            compact(&value),
            "\"\\u003ca\\u003e\\u0026\\u2028\u{7f}é\\\"\\\\\\u0001\\t\""
        );
    }

    #[test]
    fn empty_ones_stay_on_one_line() {
        let value = json!({"dns": {}, "ips": []});
        assert_eq!(indented(&value), "{\n    \"dns\": {},\n    \"ips\": []\n}");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(text in ".*", n in any::<i32>(), keys in proptest::collection::vec(".*", 0..5)) {
            let object: Map<String, Value> = keys.into_iter().map(|key| (key, json!([n, text]))).collect();
            let value = Value::Object(object);
            for written in [compact(&value), indented(&value)] {
                let read: Value = serde_json::from_str(&written).unwrap();
                prop_assert_eq!(&read, &value);
            }
        }
    }
}
