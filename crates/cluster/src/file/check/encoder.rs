//! The encoder of a cluster file: what it sends, and as what.

use std::path::PathBuf;

use super::{Checks, nearest};
use crate::file::report::quoted;
use crate::file::tree::{Location, Node};
use crate::spec::{Encoder, EncoderSource};

const ENCODER_KEYS: &[&str] = &["source", "stream"];
const TEST_CARD: &str = "test-card";
const ENCODER_EXAMPLE: &str = "encoder: { source: test-card, stream: live/livestream }";

impl<'t> Checks<'t> {
    pub(super) fn encoder(&mut self, node: &'t Node, place: Location) -> Option<Encoder> {
        let help = format!("write `{ENCODER_EXAMPLE}`, or remove the key");
        let section = self.section(node, place, "the encoder", ENCODER_KEYS, &help)?;
        let source = self.required(&section, "source", "source: test-card").and_then(|n| self.source(n));
        let stream =
            self.required(&section, "stream", "stream: live/livestream").and_then(|n| self.stream(n));
        Some(Encoder { source: source?, stream: stream? })
    }

    fn source(&mut self, node: &Node) -> Option<EncoderSource> {
        let text = node.text(self.text).unwrap_or_default();
        if text == TEST_CARD {
            return Some(EncoderSource::TestCard);
        }
        let path = PathBuf::from(&text);
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("flv")) {
            let help = nearest(&text, &[TEST_CARD]).map(|near| format!("did you mean `{near}`?"));
            self.expected(node, "`test-card` or the path of a .flv file", &help.unwrap_or_default());
            return None;
        }
        let near = self.directory.join(&path);
        let wrong = match std::fs::metadata(&near) {
            Ok(meta) if meta.is_file() => None,
            Ok(_) => Some("is not a file".to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some("does not exist".to_owned()),
            Err(e) => Some(format!("cannot be read: {e}")),
        };
        if let Some(wrong) = wrong {
            let help =
                if path.is_absolute() { "" } else { "the path starts at the directory of the cluster file" };
            self.say(
                node.place,
                format!("the encoder's file {} {wrong}", quoted(&near.to_string_lossy())),
                help,
            );
            return None;
        }
        match std::path::absolute(&near) {
            Ok(path) if path.to_str().is_some() => Some(EncoderSource::File(path)),
            _ => {
                self.say(
                    node.place,
                    "the directory of the encoder's file is not UTF-8 text",
                    "move the files",
                );
                None
            }
        }
    }

    fn stream(&mut self, node: &Node) -> Option<String> {
        let part = |s: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
            // As a part of an address: both fit the 256 bytes of a stream's key, and `_definst_` names nothing there.
            (1..=127).contains(&s.len()) && s != "_definst_" && s.chars().all(allowed)
        };
        let stream = node
            .text(self.text)
            .filter(|s| s.split_once('/').is_some_and(|(app, name)| part(app) && part(name)));
        if stream.is_none() {
            self.expected(
                node,
                "app/stream of letters, digits, `-`, `_`, `.` and `~`",
                "write `stream: live/livestream`",
            );
        }
        stream
    }
}
