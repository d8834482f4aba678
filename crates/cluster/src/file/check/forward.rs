//! The targets beyond the edges of a cluster file.

use std::path::PathBuf;

use super::Checks;
use crate::file::draft::Sent;
use crate::file::report::quoted;
use crate::file::tree::{Location, Node, Value};
use crate::forward::{Glob, Key, Outbound, Template, Wrong};

const FORWARD_KEYS: &[&str] = &["to", "name", "streams", "except", "key"];
const KEY_KEYS: &[&str] = &["file", "env"];
const FORWARD_EXAMPLE: &str = "forward: [{ to: \"rtmp://backup/{app}/{stream}\" }]";
const KEY_EXAMPLE: &str = "key: { file: /etc/srsctl/backup.key }";

impl<'t> Checks<'t> {
    pub(super) fn forward(&mut self, node: &'t Node, place: Location) -> Option<Vec<Sent>> {
        let help = format!("write `{FORWARD_EXAMPLE}`, or remove the key");
        let Value::List(items) = &node.value else {
            let place = if matches!(node.value, Value::Nothing) { place } else { node.place };
            let found = node.found(self.text);
            self.say(place, format!("expected a list of targets, found {found}"), &help);
            return None;
        };
        if let Some(item) = items.get(Outbound::MAX) {
            let message = format!("more than {} targets of `forward`", Outbound::MAX);
            self.say(
                item.place,
                message,
                "the origin sends each stream to each of them: let one of them send it on",
            );
        }
        let sent: Vec<_> = items.iter().map(|item| self.outbound(item)).collect();
        let sent: Vec<Sent> = sent.into_iter().collect::<Option<_>>()?;
        let mut is_sound = items.len() <= Outbound::MAX;
        for (index, target) in sent.iter().enumerate() {
            let same = |other: &&Sent| other.outbound.name.eq_ignore_ascii_case(&target.outbound.name);
            if let Some(first) = sent.iter().take(index).find(same) {
                let d = target
                    .place
                    .diagnostic(format!(
                        "two targets of `forward` are called {}",
                        quoted(&target.outbound.name)
                    ))
                    .related("the first", first.place.used)
                    .help("give one of the two a `name`; without one a target is called by its host");
                self.found.push(d);
                is_sound = false;
            }
        }
        is_sound.then_some(sent)
    }

    fn outbound(&mut self, node: &'t Node) -> Option<Sent> {
        let help = format!("write `{FORWARD_EXAMPLE}`");
        let section = self.section(node, node.place, "a target of `forward`", FORWARD_KEYS, &help)?;
        let to = self.required(&section, "to", "to: \"rtmp://backup/{app}/{stream}\"");
        let place = to.map(|node| node.place);
        let to = to.and_then(|node| {
            self.parsed::<Template>(node, "an address such as \"rtmp://backup/{app}/{stream}\"")
        });
        let name = section.value("name").map(|node| self.target_name(node));
        let streams = match section.value("streams") {
            Some(node) => self.globs(node, section.key("streams")),
            None => Some(vec![Glob::all()]),
        };
        let except = match section.value("except") {
            Some(node) => self.globs(node, section.key("except")),
            None => Some(Vec::new()),
        };
        let key = section.value("key").map(|node| self.credential(node, section.key("key")));
        let to = to?;
        match (to.has_key(), section.value("key")) {
            (true, None) => {
                let help = format!("add `{KEY_EXAMPLE}`, or `key: {{ env: BACKUP_KEY }}`");
                self.say(place?, "the address has {key} in it, and the target lacks `key`", &help);
                return None;
            }
            (false, Some(node)) => {
                self.say(
                    node.place,
                    "the target has a `key`, and its address has no {key}",
                    "write {key} where it belongs, or remove `key`",
                );
                return None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        let streams = streams?;
        let is_one = matches!(&streams[..], [one] if one.is_plain());
        if !to.has_stream() && !is_one {
            self.say(
                place?,
                "the address has no {stream} in it: all streams would be published as one",
                "write {stream} in it, or name the one stream that goes there, such as `streams: [\"live/livestream\"]`",
            );
            return None;
        }
        let name = match name {
            Some(name) => name?,
            None => to.host().replace(':', "-"),
        };
        let key = key.map_or(Some(None), |key| key.map(Some))?;
        Some(Sent { outbound: Outbound { name, to, streams, except: except?, key }, place: place? })
    }

    fn target_name(&mut self, node: &Node) -> Option<String> {
        let name = node.text(self.text).filter(|name| Outbound::is_name(name));
        if name.is_none() {
            let help = "it names the target in `srsctl status`, such as `name: backup`";
            self.expected(node, "a name of letters, digits, `.`, `-` and `_`, at most 64", help);
        }
        name
    }

    fn globs(&mut self, node: &'t Node, place: Location) -> Option<Vec<Glob>> {
        const HELP: &str = "write patterns of app/stream, such as `streams: [\"live/*\"]`";
        let Value::List(items) = &node.value else {
            let place = if matches!(node.value, Value::Nothing) { place } else { node.place };
            let found = node.found(self.text);
            self.say(place, format!("expected a list of patterns, found {found}"), HELP);
            return None;
        };
        if items.is_empty() {
            self.say(node.place, "expected at least one pattern", HELP);
            return None;
        }
        if let Some(item) = items.get(Outbound::MAX) {
            self.say(
                item.place,
                format!("more than {} patterns", Outbound::MAX),
                "let one pattern fit several streams",
            );
            return None;
        }
        let globs: Vec<_> =
            items.iter().map(|item| self.parsed::<Glob>(item, "a pattern in quotes")).collect();
        globs.into_iter().collect()
    }

    fn credential(&mut self, node: &'t Node, place: Location) -> Option<Key> {
        let help = format!(
            "write `{KEY_EXAMPLE}`, or `key: {{ env: BACKUP_KEY }}`: what it says stays out of this file"
        );
        let section = self.section(node, place, "a key", KEY_KEYS, &help)?;
        match (section.value("file"), section.value("env")) {
            (Some(file), None) => {
                let path = file.text(self.text).map(PathBuf::from).filter(|path| path.is_absolute());
                if path.is_none() {
                    self.expected(
                        file,
                        "the whole path of a file, from / on",
                        "it is read on the origin's machine, at each connect",
                    );
                }
                path.map(Key::File)
            }
            (None, Some(env)) => {
                let name = env.text(self.text).filter(|name| is_variable(name));
                if name.is_none() {
                    self.expected(
                        env,
                        "the name of a variable of the environment",
                        "letters, digits and `_`, such as `env: BACKUP_KEY`",
                    );
                }
                name.map(Key::Env)
            }
            (Some(_), Some(env)) => {
                self.say(
                    env.place,
                    "a key is in a file or in a variable, not in both",
                    "remove one of the two",
                );
                None
            }
            (None, None) => {
                if section.meant.is_empty() {
                    self.say(section.place, "a key lacks `file` or `env`", &help);
                }
                None
            }
        }
    }

    /// The text of `node` as a `T`, which says itself what is wrong with it.
    fn parsed<T: TryFrom<String, Error = Wrong>>(&mut self, node: &Node, expected: &str) -> Option<T> {
        let text = match &node.value {
            Value::Text(_) => node.text(self.text),
            _ => None,
        };
        let Some(text) = text else {
            self.expected(node, expected, "put it in quotes: braces and stars mean something else to YAML");
            return None;
        };
        T::try_from(text).map_err(|wrong| self.say(node.place, wrong.message, &wrong.help)).ok()
    }
}

fn is_variable(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
