//! Bodies of the two PATCHes that flanneld sends, to the byte but for the times.

use std::collections::BTreeMap;

use serde_json::json;

use super::names::{Name, Names};

/// Of the condition, as flanneld writes it.
pub(super) const REASON: &str = "FlannelIsUp";
const MESSAGE: &str = "Flannel is running on this node";

/// Sets these annotations and leaves all others alone.
pub(super) fn annotations(names: &Names, wanted: &BTreeMap<Name, String>) -> String {
    // Go writes a map's keys in order.
    let named: BTreeMap<String, &String> = wanted
        .iter()
        .map(|(name, value)| (names.full(*name), value))
        .collect();
    json!({ "metadata": { "annotations": named } }).to_string()
}

/// The network is up, at `time`.
pub(super) fn network_up(time: &str) -> String {
    json!({ "status": { "conditions": [{
        "type": "NetworkUnavailable",
        "status": "False",
        "lastHeartbeatTime": time,
        "lastTransitionTime": time,
        "reason": REASON,
        "message": MESSAGE,
    }]}})
    .to_string()
}

/// RFC 3339 in UTC of so many seconds since 1970, as `metav1.Time` is written.
pub(super) fn rfc3339(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Howard Hinnant's days-to-civil: years begin in March, so that leap days are last.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let second = second % 60;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn as_flanneld_was_seen_to_write_them() {
        let names = Names::new("flannel.alpha.coreos.com").unwrap();
        let data = r#"{"VNI":1,"VtepMAC":"5a:9d:a9:52:56:9c"}"#;
        let wanted = [
            (Name::Managed, "true"),
            (Name::BackendType, "vxlan"),
            (Name::BackendData, data),
            (Name::PublicIp, "192.0.2.11"),
        ];
        let wanted = wanted.map(|(name, value)| (name, value.to_owned())).into();
        assert_eq!(
            annotations(&names, &wanted),
            r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"5a:9d:a9:52:56:9c\"}","flannel.alpha.coreos.com/backend-type":"vxlan","flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/public-ip":"192.0.2.11"}}}"#
        );
        assert_eq!(
            network_up("2026-11-29T13:00:00Z"),
            r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","lastHeartbeatTime":"2026-11-29T13:00:00Z","lastTransitionTime":"2026-11-29T13:00:00Z","reason":"FlannelIsUp","message":"Flannel is running on this node"}]}}"#
        );
    }

    #[rstest]
    #[case(0, "1970-01-01T00:00:00Z")]
    #[case(951_827_696, "2000-02-29T12:34:56Z")]
    #[case(1_709_251_199, "2024-02-29T23:59:59Z")]
    #[case(1_796_083_199, "2026-11-30T23:59:59Z")]
    #[case(4_107_542_400, "2100-03-01T00:00:00Z")]
    fn times(#[case] unix: u64, #[case] text: &str) {
        assert_eq!(rfc3339(unix), text);
    }
}
