//! Keys of WireGuard, in words as `wg` has them: 32 bytes in base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of every key.
const LEN: usize = 32;

/// Text that is no key. It may be a secret that was mistyped, so it does not say what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 32 bytes in base64")]
pub struct NoKey;

fn decode(text: &str) -> Result<[u8; LEN], NoKey> {
    let bytes = STANDARD.decode(text).map_err(|_| NoKey)?;
    bytes.try_into().map_err(|_| NoKey)
}

/// By which a peer is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; LEN]);

impl FromStr for PublicKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A node's own. Says itself to nobody but the kernel and its file.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; LEN]);

impl PrivateKey {
    /// A new one, by chance.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes: [u8; LEN] = rand::random();
        // As `wg genkey` has it (RFC 7748 §5).
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        Self(bytes)
    }

    pub(crate) const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> [u8; LEN] {
        self.0
    }

    /// Text of the key file.
    pub(crate) fn text(&self) -> String {
        STANDARD.encode(self.0)
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::x25519(
            self.0,
            x25519_dalek::X25519_BASEPOINT_BYTES,
        ))
    }
}

impl FromStr for PrivateKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the private key of {}", self.public())
    }
}

/// What all nodes of a network share, besides. Zeroes: nothing, as for the kernel.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Psk(pub(crate) [u8; LEN]);

impl FromStr for Psk {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        match text {
            "" => Ok(Self::default()),
            // Go's decoder skips them, and `wg genpsk` ends its line.
            text => decode(&text.replace(['\r', '\n'], "")).map(Self),
        }
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self == Self::default() {
            true => "none",
            false => "a secret",
        })
    }
}

/// For the file that an agent remembers the configuration in, which is its own alone.
impl Serialize for Psk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Psk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 §6.1, Alice's.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn the_public_key_follows_from_the_private_one() {
        let key: PrivateKey = PRIVATE.parse().unwrap();
        assert_eq!(key.public().to_string(), PUBLIC);
        assert_eq!(key.text(), PRIVATE);
        assert_eq!(PUBLIC.parse(), Ok(key.public()));
    }

    #[test]
    fn a_new_one_is_another_and_as_the_kernel_keeps_it() {
        let [one, two] = [PrivateKey::generate(), PrivateKey::generate()];
        assert_ne!(one, two);
        let bytes = one.bytes();
        assert_eq!((bytes[0] & 7, bytes[31] & 192), (0, 64));
    }

    #[test]
    fn what_is_no_key_is_not_repeated() {
        for text in ["", "abc", "AAAA", &PRIVATE[..43], &format!("{PRIVATE}\n")] {
            assert_eq!(text.parse::<PublicKey>(), Err(NoKey), "{text:?}");
        }
        let error = "s3cret".parse::<Psk>().unwrap_err().to_string();
        assert!(!error.contains("s3cret"));
    }

    #[test]
    fn the_end_of_a_line_is_no_part_of_what_all_share() {
        let psk: Psk = PRIVATE.parse().unwrap();
        for end in ["\n", "\r\n"] {
            assert_eq!(format!("{PRIVATE}{end}").parse(), Ok(psk));
        }
        assert_eq!("\n".parse::<Psk>(), Err(NoKey));
    }

    #[test]
    fn secrets_do_not_say_themselves() {
        let key: PrivateKey = PRIVATE.parse().unwrap();
        assert_eq!(format!("{key:?}"), format!("the private key of {PUBLIC}"));
        let psk: Psk = PRIVATE.parse().unwrap();
        assert_eq!(format!("{psk:?} {:?}", Psk::default()), "a secret none");
        let kept: Psk = serde_json::from_str(&serde_json::to_string(&psk).unwrap()).unwrap();
        assert_eq!(kept, psk);
    }
}
