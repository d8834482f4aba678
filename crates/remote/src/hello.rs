//! Who the two ends are.

use serde::{Deserialize, Serialize};

/// What the two ends understand; both have to be equal.
pub const PROTO: u32 = 1;

/// The first that each end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTO`].
    pub proto: u32,
    /// Of srsctl.
    pub version: String,
    /// Of its kernel: another one than before means that the machine was started anew.
    pub boot_id: String,
    /// What the machine calls itself.
    pub host: String,
    /// Its clock, ms since 1970. To be shown, never to decide by.
    #[serde(default)]
    pub clock_ms: u64,
}

impl Hello {
    /// Whether what speaks the same is also near enough to be asked for changes: the same major version, at most one minor apart.
    #[must_use]
    pub fn is_near(&self, version: &str) -> bool {
        let parts = |version: &str| {
            let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
            Some((numbers.next()??, numbers.next()??))
        };
        match (parts(&self.version), parts(version)) {
            (Some((major, minor)), Some((other, than))) => major == other && minor.abs_diff(than) <= 1,
            (None, _) | (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_apart_is_near() {
        let of = |version: &str| Hello {
            proto: PROTO,
            version: version.into(),
            boot_id: String::new(),
            host: String::new(),
            clock_ms: 0,
        };
        for (version, is_near) in [
            ("0.2.7", true),
            ("0.1.0", true),
            ("0.3.0-rc1", true),
            ("0.4.0", false),
            ("1.2.0", false),
            ("x", false),
        ] {
            assert_eq!(of(version).is_near("0.2.0"), is_near, "{version}");
        }
    }
}
