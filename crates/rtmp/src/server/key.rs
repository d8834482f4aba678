//! The name of a stream: one key for all spellings of its address.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest stream key, bytes.
pub(super) const MAX_KEY: usize = 256;

/// Stands between a part of a path and the name of a virtual host, as SRS's tools write it.
const VHOST: &str = "...vhost...";

/// `app/stream`, the same for every way a client may write it.
///
/// Dropped is what names no stream: parameters (`?…`), a virtual host in SRS's way (`...vhost...NAME`), `_definst_` and
/// superfluous slashes. Where clients cut the address differently (`a/b` + `c` or `a` + `b/c`), the key is the same. All
/// else stands for itself: `a#1`, `a...1`, `a.flv` and `mp4:a` are not `a`. At most 256 bytes, UTF-8 without control
/// characters, an app and a name that are not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
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
    /// Bytes that are no text were read as U+FFFD, all of them: two names would become one.
    #[error("the stream address is not UTF-8")]
    NotUtf8,
}

impl StreamKey {
    /// The key for the `app` of a `connect` and the stream name of a `publish` or `play`.
    pub fn parse(app: &str, name: &str) -> Result<Self, KeyError> {
        let mut parts: Vec<&str> = Vec::new();
        for side in [app, name] {
            let path = without_params(side);
            for part in path.split('/') {
                let part = part.split_once(VHOST).map_or(part, |(part, _)| part);
                if !part.is_empty() && part != "_definst_" {
                    parts.push(part);
                }
            }
        }
        let name = parts.pop().ok_or(KeyError::Incomplete)?;
        if parts.is_empty() {
            return Err(KeyError::Incomplete);
        }
        let key = format!("{}/{name}", parts.join("/"));
        if key.len() > MAX_KEY {
            return Err(KeyError::TooLong(key.len()));
        }
        check_text(&key)?;
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

/// An address without its parameters: they may hold a token, and nothing here needs them.
pub(super) fn without_params(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// Whether all of `text` may stand in a key.
pub(super) fn check_text(text: &str) -> Result<(), KeyError> {
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(KeyError::NotUtf8);
    }
    if text.chars().any(char::is_control) {
        return Err(KeyError::ControlCharacter);
    }
    Ok(())
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for StreamKey {
    type Error = KeyError;

    /// From a key as it is shown; see the parser for others.
    fn try_from(text: String) -> Result<Self, KeyError> {
        let key = Self::parse("", &text)?;
        if key.0 == text { Ok(key) } else { Err(KeyError::Incomplete) }
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
            ("live?vhost=v&a=b/c", "livestream"),
            ("live...vhost...example.com", "livestream"),
            ("live?a=1&&b=2", "livestream?c=3"),
            ("live/_definst_", "livestream"),
            ("live/_definst_/", "livestream?vhost=__defaultVhost__"),
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
    fn names_that_differ_are_streams_that_differ() {
        let names = [
            "a", "a#1", "a#2", "a#", "#a", "a...1", "a...2", "a...", "...a", "a...vhos", "a.flv", "a.mp4",
            "mp4:a", "flv:a", "a+b", "a b", "a%20b", "A", "ä", "a\u{308}", "a&b=c", "a;b", "a,b",
        ];
        let keys: std::collections::HashSet<_> = names.iter().map(|name| key("live", name)).collect();
        assert_eq!(keys.len(), names.len(), "{keys:?}");
        assert_eq!(key("live#1", "a"), "live#1/a");
    }

    #[test]
    fn bytes_that_are_no_text_name_no_stream() {
        for (app, name) in [("live", "a\u{fffd}"), ("a\u{fffd}", "b")] {
            assert_eq!(StreamKey::parse(app, name), Err(KeyError::NotUtf8));
        }
    }

    #[test]
    fn a_record_has_keys_and_no_other_spelling_of_an_address() {
        let record = |text: &str| postcard::to_stdvec(text).unwrap();
        let key = StreamKey::parse("live", "livestream").unwrap();
        assert_eq!(postcard::to_stdvec(&key).unwrap(), record("live/livestream"));
        assert_eq!(postcard::from_bytes(&record("live/livestream")), Ok(key));
        for text in ["", "live", "live/", "live//s", "/live/s", "live/s?x", "live/a\0", &"x/".repeat(200)] {
            assert!(postcard::from_bytes::<StreamKey>(&record(text)).is_err(), "{text}");
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
        for (app, name) in [("", ""), ("live", ""), ("", "s"), ("live", "?x"), ("/", "/")] {
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
