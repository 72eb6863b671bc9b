//! A daemon's networks, looked at one after the other: a section for each, or a JSON object with a member for each.

use std::io::Write;

use serde_json::{Map, Value};

use super::Verdict;
use super::output::{Format, json};
use crate::base::logging::describe;
use crate::settings::Config;

/// Looks at each network that `config` names. What cannot be looked at is named, and is broken.
pub(super) fn each(
    config: &Config,
    format: Format,
    out: &mut dyn Write,
    look: impl Fn(&Config, &mut dyn Write) -> anyhow::Result<Verdict>,
) -> anyhow::Result<Verdict> {
    let Some(networks) = &config.networks else {
        return look(config, out);
    };
    let look = &look;
    let looks = networks.known(config)?.into_iter().map(|name| {
        let config = config.of_network(networks, &name);
        let look = move |out: &mut dyn Write| look(&config?, out);
        (name, look)
    });
    sections(format, out, looks)
}

/// The same of whatever has a name.
pub(super) fn sections<L>(
    format: Format,
    out: &mut dyn Write,
    looks: impl IntoIterator<Item = (String, L)>,
) -> anyhow::Result<Verdict>
where
    L: FnOnce(&mut dyn Write) -> anyhow::Result<Verdict>,
{
    let mut worst = Verdict::Fine;
    let mut members = Map::new();
    let mut gap = "";
    for (name, look) in looks {
        let mut section = Vec::new();
        let seen = look(&mut section);
        let error = match seen {
            Ok(verdict) => {
                worst = worst.max(verdict);
                None
            }
            Err(error) => {
                worst = Verdict::Broken;
                Some(describe(&error))
            }
        };
        match format {
            Format::Table => {
                writeln!(out, "{gap}── {name} ──")?;
                out.write_all(&section)?;
                if let Some(error) = error {
                    writeln!(out, "error: {error}")?;
                }
                gap = "\n";
            }
            Format::Json => {
                let member = match error {
                    Some(error) => serde_json::json!({ "error": error }),
                    None => serde_json::from_slice(&section)?,
                };
                members.insert(name, member);
            }
        }
    }
    if format == Format::Json {
        json(out, &Value::Object(members))?;
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Look = fn(&mut dyn Write) -> anyhow::Result<Verdict>;

    fn looks() -> [(String, Look); 2] {
        let blue: Look = |out| {
            writeln!(out, "[1]")?;
            Ok(Verdict::Attention)
        };
        let red: Look = |_| anyhow::bail!("no key");
        [("blue".to_owned(), blue), ("red".to_owned(), red)]
    }

    fn text(format: Format) -> String {
        let mut out = Vec::new();
        let verdict = sections(format, &mut out, looks()).unwrap();
        assert_eq!(verdict, Verdict::Broken);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_that_cannot_be_looked_at_does_not_hide_the_others() {
        assert_eq!(
            text(Format::Table),
            "── blue ──\n[1]\n\n── red ──\nerror: no key\n"
        );
        assert_eq!(
            text(Format::Json),
            "{\"blue\":[1],\"red\":{\"error\":\"no key\"}}\n"
        );
    }
}
