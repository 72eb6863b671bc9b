//! Payloads that show what happened to them on the way.

/// Bytes in which every eight differ from every other eight: a lost, doubled or moved piece shows.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    (0..u64::MAX)
        .flat_map(u64::to_be_bytes)
        .take(bytes)
        .collect()
}

/// # Panics
/// When not all arrived, or changed; names the way and the first changed byte.
#[track_caller]
pub(crate) fn assert_same(sent: &[u8], got: &[u8], way: &str) {
    assert_eq!(sent.len(), got.len(), "{way}: bytes lost or added");
    let changed = sent.iter().zip(got).position(|(a, b)| a != b);
    assert_eq!(changed, None, "{way}: first changed byte");
}
