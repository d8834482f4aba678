//! The name of a stream: one key for all spellings of its address.

use std::fmt;
use std::str::FromStr;

/// Longest stream key, bytes.
pub(super) const MAX_KEY: usize = 256;

/// `app/stream`, the same for every way a client may write it.
///
/// Parameters (`?…`, `#…`), the virtual host (`...vhost...NAME`), `_definst_`, an `mp4:` prefix, an `.flv` suffix and
/// superfluous slashes are dropped. Where clients cut the address differently (`a/b` + `c` or `a` + `b/c`), the key is
/// the same. At most 256 bytes, no control characters, an app and a name that are not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(String);

/// Not the address of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Fewer than two path parts.
    #[error("the address names no stream: use rtmp://HOST/APP/STREAM")]
    Incomplete,
    /// Over 256 bytes.
    #[error("the stream address has {0} bytes; at most {MAX_KEY} are allowed")]
    TooLong(usize),
    /// Would corrupt logs and terminals.
    #[error("the stream address contains a control character")]
    ControlCharacter,
}

impl StreamKey {
    /// The key for the `app` of a `connect` and the stream name of a `publish` or `play`.
    pub fn parse(app: &str, name: &str) -> Result<Self, KeyError> {
        let mut parts: Vec<&str> = Vec::new();
        for side in [app, name] {
            let path = side.split(['?', '#']).next().unwrap_or_default();
            for part in path.split('/') {
                let part = part.split("...").next().unwrap_or_default();
                if !part.is_empty() && part != "_definst_" {
                    parts.push(part);
                }
            }
        }
        let name = parts.pop().ok_or(KeyError::Incomplete)?;
        let name = name.trim_start_matches("mp4:").trim_end_matches(".flv");
        if parts.is_empty() || name.is_empty() || name == "_definst_" {
            return Err(KeyError::Incomplete);
        }
        let key = format!("{}/{name}", parts.join("/"));
        if key.len() > MAX_KEY {
            return Err(KeyError::TooLong(key.len()));
        }
        if key.chars().any(char::is_control) {
            return Err(KeyError::ControlCharacter);
        }
        Ok(Self(key))
    }

    /// `app/stream`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Everything before the last slash.
    pub fn app(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(app, _)| app)
    }

    /// Everything behind the last slash.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StreamKey {
    type Err = KeyError;

    /// From one path, as `live/livestream`.
    fn from_str(path: &str) -> Result<Self, KeyError> {
        Self::parse("", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(app: &str, name: &str) -> String {
        StreamKey::parse(app, name).unwrap().to_string()
    }

    #[test]
    fn every_spelling_of_an_address_gives_the_same_key() {
        let spellings = [
            ("live", "livestream"),
            ("live/", "/livestream"),
            ("/live", "livestream/"),
            ("live", "livestream?token=x"),
            ("live", "livestream#token=x"),
            ("live?vhost=v&a=b/c", "livestream"),
            ("live...vhost...example.com", "livestream"),
            ("live?a=1&&b=2", "livestream?c=3"),
            ("live/_definst_", "livestream"),
            ("live/_definst_/", "livestream?vhost=__defaultVhost__"),
            ("live", "livestream.flv"),
            ("live", "mp4:livestream"),
            ("live//", "livestream"),
            ("live/livestream", ""),
            ("", "live/livestream"),
            ("", "/live/livestream?x"),
        ];
        for (app, name) in spellings {
            assert_eq!(key(app, name), "live/livestream", "{app:?} + {name:?}");
        }
    }

    #[test]
    fn the_cut_between_app_and_name_does_not_matter() {
        for (app, name) in [("a/b", "c"), ("a", "b/c"), ("a/b/c", ""), ("", "a/b/c")] {
            let key = StreamKey::parse(app, name).unwrap();
            assert_eq!((key.app(), key.name(), key.as_str()), ("a/b", "c", "a/b/c"));
        }
    }

    #[test]
    fn what_names_no_stream_is_refused() {
        for (app, name) in [("", ""), ("live", ""), ("", "s"), ("live", "?x"), ("/", "/"), ("live", ".flv")] {
            assert_eq!(StreamKey::parse(app, name), Err(KeyError::Incomplete), "{app:?} + {name:?}");
        }
        assert_eq!(StreamKey::parse("live", &"x".repeat(252)), Err(KeyError::TooLong(257)));
        assert!(StreamKey::parse("live", &"x".repeat(251)).is_ok());
        for control in ["a\0", "a\n", "\u{9b}31m"] {
            assert_eq!(StreamKey::parse("live", control), Err(KeyError::ControlCharacter));
        }
    }

    proptest! {
        #[test]
        fn a_key_parses_to_itself(app in "\\PC{0,20}", name in "\\PC{0,20}") {
            if let Ok(key) = StreamKey::parse(&app, &name) {
                prop_assert_eq!(key.as_str(), format!("{}/{}", key.app(), key.name()));
                prop_assert_eq!(StreamKey::parse(key.app(), key.name()), Ok(key.clone()));
                prop_assert_eq!(key.to_string().parse(), Ok(key));
            }
        }
    }
}
