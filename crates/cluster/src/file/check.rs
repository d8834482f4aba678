//! The tree of a cluster file, held against the schema: all that is wrong in it at once, or a [`Draft`].

mod encoder;
mod forward;

use std::net::IpAddr;
use std::path::Path;

use super::destination;
use super::draft::{Draft, Entry};
use super::host_name;
use super::report::{Diagnostic, Mark, quoted};
use super::tree::{Location, Node, Value};
use crate::destination::Destination;
use crate::memory::Memory;
use crate::spec::{Cluster, Role, WorkerOptions};

const ROOT_KEYS: &[&str] = &["cluster", "origin", "edges", "worker", "encoder", "forward"];
const ORIGIN_KEYS: &[&str] = &["host", "port", "listen", "ssh", "worker"];
const EDGE_KEYS: &[&str] = &["host", "ports", "listen", "ssh", "worker"];
const WORKER_KEYS: &[&str] = &[
    "max_connections",
    "max_streams",
    "gop_cache",
    "latency",
    "queue_length",
    "publish_firstpkt_timeout",
    "publish_normal_timeout",
    "end_of_stream",
    "memory",
];

const ORIGIN_EXAMPLE: &str = "origin: { host: 127.0.0.5, port: 1935 }";
const EDGES_EXAMPLE: &str = "edges: [{ host: 127.0.0.6, ports: [1935, 1936] }]";
const WORKER_EXAMPLE: &str = "worker: { max_connections: 10240, gop_cache: true }";

/// Checks the whole file; `directory` is what the encoder's path is relative to.
pub(super) fn cluster(root: &Node, text: &str, directory: &Path) -> Result<Draft, Vec<Diagnostic>> {
    let mut checks = Checks { text, directory, found: Vec::new() };
    match checks.cluster(root) {
        Some(draft) if checks.found.is_empty() => Ok(draft),
        _ => Err(checks.found),
    }
}

/// What a cluster may be called, for a person.
pub const CLUSTER_NAME: &str =
    "a cluster name of letters, digits, `-` and `_`, at most 64, a letter or digit first";

/// Whether a cluster may be called so.
#[must_use]
pub fn is_cluster_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// Checks the cluster's name alone.
pub(super) fn name(root: &Node, text: &str) -> Result<String, Vec<Diagnostic>> {
    let mut checks = Checks { text, directory: Path::new(""), found: Vec::new() };
    let Value::Map(entries) = &root.value else {
        checks.section(root, root.place, "the cluster file", ROOT_KEYS, "");
        return Err(checks.found);
    };
    let mut names = entries.iter().filter(|(key, _)| key.text(text).as_deref() == Some("cluster"));
    let Some((_, node)) = names.next() else {
        return Err(vec![lacks(root.place, "the cluster file", "cluster", "cluster: live")]);
    };
    match checks.name(node) {
        Some(name) => Ok(name),
        None => Err(checks.found),
    }
}

/// The origin's `host:port` alone, unchecked.
pub(super) fn origin(root: &Node, text: &str) -> Option<String> {
    let value = |node: &'_ Node, wanted: &str| -> Option<Node> {
        let Value::Map(entries) = &node.value else { return None };
        let mut found = entries.iter().filter(|(key, _)| key.text(text).as_deref() == Some(wanted));
        found.next().map(|(_, value)| value.clone())
    };
    let origin = value(root, "origin")?;
    let host = value(&origin, "host")?.text(text)?;
    let port = match value(&origin, "port") {
        Some(port) => port.text(text)?,
        None => Cluster::ORIGIN_PORT.to_string(),
    };
    Some(format!("{}:{port}", host.to_lowercase()))
}

struct Checks<'t> {
    text: &'t str,
    directory: &'t Path,
    found: Vec<Diagnostic>,
}

/// The known keys of a mapping with their values.
struct Section<'t> {
    what: &'static str,
    place: Location,
    entries: Vec<(&'static str, &'t Node, &'t Node)>,
    /// Keys that a misspelt one probably stands for: their absence is not worth a second error.
    meant: Vec<&'static str>,
}

impl<'t> Section<'t> {
    fn value(&self, key: &str) -> Option<&'t Node> {
        self.entries.iter().find(|(k, ..)| *k == key).map(|(_, _, value)| *value)
    }

    fn key(&self, key: &str) -> Location {
        self.entries.iter().find(|(k, ..)| *k == key).map_or(self.place, |(_, node, _)| node.place)
    }
}

impl<'t> Checks<'t> {
    fn say(&mut self, place: Location, message: impl Into<String>, help: &str) {
        let mut d = place.diagnostic(message);
        if !help.is_empty() {
            d = d.help(help);
        }
        self.found.push(d);
    }

    fn expected(&mut self, node: &Node, what: &str, help: &str) {
        let found = node.found(self.text);
        self.say(node.place, format!("expected {what}, found {found}"), help);
    }

    fn cluster(&mut self, root: &'t Node) -> Option<Draft> {
        if matches!(root.value, Value::Nothing) {
            let comments = self.text.contains(|c: char| !c.is_whitespace() && c != '\u{feff}');
            let message = if comments { "the file holds nothing but comments" } else { "the file is empty" };
            let help = format!("it needs at least `cluster: live`, `{ORIGIN_EXAMPLE}` and `{EDGES_EXAMPLE}`");
            self.found.push(Diagnostic::new(Mark::START, message).help(help));
            return None;
        }
        let file =
            self.section(root, root.place, "the cluster file", ROOT_KEYS, "it starts with `cluster: live`")?;
        let name = self.required(&file, "cluster", "cluster: live").and_then(|n| self.name(n));
        let defaults = file.value("worker").map_or_else(
            || Some(WorkerOptions::default()),
            |n| self.worker(n, file.key("worker"), &WorkerOptions::default()),
        );
        // Where the defaults are wrong, the overrides are still checked.
        let known = defaults.clone().unwrap_or_default();
        let origin = self
            .required(&file, "origin", ORIGIN_EXAMPLE)
            .and_then(|n| self.origin(n, file.key("origin"), &known));
        let edges = self
            .required(&file, "edges", EDGES_EXAMPLE)
            .and_then(|n| self.edges(n, file.key("edges"), &known));
        self.check_edges_take_all(origin.as_ref(), edges.as_deref().unwrap_or_default());
        let encoder = file.value("encoder").map(|n| self.encoder(n, file.key("encoder")));
        let forward = file.value("forward").map(|n| self.forward(n, file.key("forward")));
        defaults?;
        Some(Draft {
            name: name?,
            origins: vec![origin?],
            edges: edges?,
            encoder: encoder.map_or(Some(None), |e| e.map(Some))?,
            forward: forward.unwrap_or_else(|| Some(Vec::new()))?,
        })
    }

    /// Every stream of the origin is forwarded to every edge.
    fn check_edges_take_all(&mut self, origin: Option<&Entry>, edges: &[Entry]) {
        let Some(most) = origin.map(|origin| origin.options.max_streams) else { return };
        for edge in edges.iter().filter(|edge| edge.options.max_streams < most) {
            let message = format!(
                "this edge takes {} streams, but the origin forwards {most}",
                edge.options.max_streams
            );
            self.say(
                edge.host_place,
                message,
                &format!("let its `worker:` say `max_streams: {most}`, or more"),
            );
        }
    }

    /// The mapping at `node` with `keys` and no other; `place` is where its absence is shown.
    fn section(
        &mut self,
        node: &'t Node,
        place: Location,
        what: &'static str,
        keys: &'static [&'static str],
        example: &str,
    ) -> Option<Section<'t>> {
        let Value::Map(entries) = &node.value else {
            let place = if matches!(node.value, Value::Nothing) { place } else { node.place };
            let found = node.found(self.text);
            self.say(place, format!("expected the keys of {what}, found {found}"), example);
            return None;
        };
        let mut section = Section { what, place, entries: Vec::new(), meant: Vec::new() };
        for (key, value) in entries {
            let Some(text) = key.text(self.text) else {
                self.expected(key, "a key", "");
                continue;
            };
            let Some(known) = keys.iter().find(|k| **k == text) else {
                let near = nearest(&text, keys);
                section.meant.extend(near);
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys of {what} are {}", list(keys)),
                };
                self.say(key.place, format!("{what} has no key {}", quoted(&text)), &help);
                continue;
            };
            match section.entries.iter().find(|(k, ..)| k == known) {
                Some((_, first, _)) => {
                    let d = key
                        .place
                        .diagnostic(format!("the key `{known}` is written twice"))
                        .related("first written here", first.place.used)
                        .help("remove one of the two");
                    self.found.push(d);
                }
                None => section.entries.push((known, key, value)),
            }
        }
        Some(section)
    }

    fn required(&mut self, section: &Section<'t>, key: &'static str, example: &str) -> Option<&'t Node> {
        let value = section.value(key);
        if value.is_none() && !section.meant.contains(&key) {
            self.found.push(lacks(section.place, section.what, key, example));
        }
        value
    }

    fn name(&mut self, node: &Node) -> Option<String> {
        let name = node.text(self.text).filter(|name| is_cluster_name(name));
        if name.is_none() {
            self.expected(node, CLUSTER_NAME, "it names directories and processes, such as `cluster: live`");
        }
        name
    }

    fn origin(&mut self, node: &'t Node, place: Location, defaults: &WorkerOptions) -> Option<Entry> {
        let section =
            self.section(node, place, "the origin", ORIGIN_KEYS, &format!("write `{ORIGIN_EXAMPLE}`"))?;
        let host = self.host(&section);
        let port = match section.value("port") {
            Some(node) => self.port(node).map(|port| (port, node.place)),
            None => Some((Cluster::ORIGIN_PORT, section.value("host").map_or(place, |n| n.place))),
        };
        self.entry(Role::Origin, &section, host, port.map(|p| vec![p]), defaults)
    }

    fn edges(&mut self, node: &'t Node, place: Location, defaults: &WorkerOptions) -> Option<Vec<Entry>> {
        let help = format!("write `{EDGES_EXAMPLE}`");
        let Value::List(items) = &node.value else {
            let place = if matches!(node.value, Value::Nothing) { place } else { node.place };
            let found = node.found(self.text);
            self.say(place, format!("expected a list of edges, found {found}"), &help);
            return None;
        };
        if items.is_empty() {
            self.say(node.place, "there are no edges: players would have nowhere to connect to", &help);
            return None;
        }
        let mut ports = 0;
        let edges: Vec<_> = items
            .iter()
            .map(|item| {
                let edge = self.edge(item, defaults)?;
                let fitted = ports <= Cluster::MAX_EDGE_PORTS;
                ports += edge.ports.len();
                if let (true, Some((_, place))) =
                    (fitted && ports > Cluster::MAX_EDGE_PORTS, edge.ports.last())
                {
                    let message = format!("more than {} edge ports", Cluster::MAX_EDGE_PORTS);
                    self.say(
                        *place,
                        message,
                        "the origin sends every stream to each of them: build larger clusters from several",
                    );
                }
                Some(edge)
            })
            .collect();
        edges.into_iter().collect()
    }

    fn edge(&mut self, node: &'t Node, defaults: &WorkerOptions) -> Option<Entry> {
        let section =
            self.section(node, node.place, "an edge", EDGE_KEYS, &format!("write `{EDGES_EXAMPLE}`"))?;
        let host = self.host(&section);
        let ports = self
            .required(&section, "ports", "ports: [1935, 1936]")
            .and_then(|n| self.ports(n, section.key("ports")));
        self.entry(Role::Edge, &section, host, ports, defaults)
    }

    fn entry(
        &mut self,
        role: Role,
        section: &Section<'t>,
        host: Option<(String, Location)>,
        ports: Option<Vec<(u16, Location)>>,
        defaults: &WorkerOptions,
    ) -> Option<Entry> {
        let listen = section.value("listen").map(|n| self.listen(n));
        let ssh = section.value("ssh").map(|n| self.ssh(n));
        let options = match section.value("worker") {
            Some(node) => self.worker(node, section.key("worker"), defaults),
            None => Some(defaults.clone()),
        };
        let (host, host_place) = host?;
        let listen = listen.map_or(Some(None), |l| l.map(Some))?;
        let ssh = ssh.map_or(Some(None), |ssh| ssh.map(Some))?;
        Some(Entry { role, host, host_place, ports: ports?, listen, ssh, options: options? })
    }

    fn host(&mut self, section: &Section<'t>) -> Option<(String, Location)> {
        let node = self.required(section, "host", "host: 127.0.0.6")?;
        let Some(text) = node.text(self.text) else {
            let help = match node.value {
                Value::List(_) => {
                    "one entry has one host; an IPv6 address is written without brackets, as in `host: \"::1\"`"
                }
                _ => "",
            };
            self.expected(node, host_name::EXPECTED, help);
            return None;
        };
        match host_name::check(&text) {
            Ok(()) => Some((text, node.place)),
            Err(wrong) => {
                self.say(node.place, wrong.message, &wrong.help);
                None
            }
        }
    }

    fn listen(&mut self, node: &Node) -> Option<IpAddr> {
        let text = node.text(self.text).unwrap_or_default();
        let address =
            text.parse::<IpAddr>().ok().map(|a| a.to_canonical()).filter(|a| !host_name::is_group(*a));
        if address.is_none() {
            self.expected(
                node,
                "an address of the host to listen on",
                "write an IPv4 or IPv6 address, 0.0.0.0 for every address of the host",
            );
        }
        address
    }

    fn ssh(&mut self, node: &Node) -> Option<(Destination, Location)> {
        let Some(text) = node.text(self.text) else {
            self.expected(node, destination::EXPECTED, "write `ssh: srsctl@192.168.1.6`");
            return None;
        };
        match destination::parse(&text) {
            Ok(way) => Some((way, node.place)),
            Err((message, help)) => {
                self.say(node.place, message, &help);
                None
            }
        }
    }

    fn ports(&mut self, node: &Node, place: Location) -> Option<Vec<(u16, Location)>> {
        const HELP: &str = "write `ports: [1935, 1936]`";
        let Value::List(items) = &node.value else {
            let place = if matches!(node.value, Value::Nothing) { place } else { node.place };
            let found = node.found(self.text);
            self.say(place, format!("expected a list of ports, found {found}"), HELP);
            return None;
        };
        if items.is_empty() {
            self.say(node.place, "expected at least one port", HELP);
            return None;
        }
        let ports: Vec<_> = items.iter().map(|n| self.port(n).map(|port| (port, n.place))).collect();
        ports.into_iter().collect()
    }

    fn port(&mut self, node: &Node) -> Option<u16> {
        let port = match &node.value {
            Value::Whole(n) => u16::try_from(*n).ok().filter(|p| *p != 0),
            _ => None,
        };
        if port.is_none() {
            let help = match &node.value {
                Value::Text(text) if text.parse::<u16>().is_ok() => {
                    "write the number without quotes and leading zeros"
                }
                Value::List(_) => "the origin has one port, such as `port: 1935`",
                _ => "",
            };
            self.expected(node, "a port, 1 to 65535", help);
        }
        port
    }

    fn worker(&mut self, node: &'t Node, place: Location, defaults: &WorkerOptions) -> Option<WorkerOptions> {
        let help = format!("write `{WORKER_EXAMPLE}`, or remove the key");
        let section = self.section(node, place, "a worker", WORKER_KEYS, &help)?;
        let max_connections = match section.value("max_connections") {
            Some(node) => self.number(node, "a number of players", WorkerOptions::MAX_CONNECTIONS),
            None => Some(defaults.max_connections),
        };
        let max_streams = match section.value("max_streams") {
            Some(node) => self.number(node, "a number of streams", WorkerOptions::MAX_STREAMS),
            None => Some(defaults.max_streams),
        };
        let gop_cache = match section.value("gop_cache") {
            Some(Node { value: Value::Bool(on), .. }) => Some(*on),
            Some(node) => {
                let help = match &node.value {
                    Value::Text(t) if ["on", "yes"].contains(&&*t.to_ascii_lowercase()) => {
                        "write `gop_cache: true`"
                    }
                    Value::Text(t) if ["off", "no"].contains(&&*t.to_ascii_lowercase()) => {
                        "write `gop_cache: false`"
                    }
                    _ => "with true, players that join start with the newest whole group of pictures",
                };
                self.expected(node, "true or false", help);
                None
            }
            None => Some(defaults.gop_cache),
        };
        let latency = match section.value("latency") {
            Some(node) => {
                let help =
                    "0ms sends at once, more sends less often and costs less; auto chooses by the load";
                self.text_as(node, "auto, or 0ms to 350ms", help, |_| true)
            }
            None => Some(defaults.latency),
        };
        let queue_length = match section.value("queue_length") {
            Some(node) => {
                let help = "media kept for slow players, such as `queue_length: 30s`";
                self.text_as(node, "1s to 120s", help, |span| WorkerOptions::QUEUE_LENGTHS.contains(span))
            }
            None => Some(defaults.queue_length),
        };
        let mut timeout = |key, default, help: &str| match section.value(key) {
            Some(node) => {
                self.text_as(node, "1s to 3600s", help, |span| WorkerOptions::PUBLISH_TIMEOUTS.contains(span))
            }
            None => Some(default),
        };
        let publish_firstpkt_timeout = timeout(
            "publish_firstpkt_timeout",
            defaults.publish_firstpkt_timeout,
            "from a publish to its first media, such as `publish_firstpkt_timeout: 20s`",
        );
        let publish_normal_timeout = timeout(
            "publish_normal_timeout",
            defaults.publish_normal_timeout,
            "how long a publisher may send nothing, such as `publish_normal_timeout: 5s`",
        );
        let end_of_stream = match section.value("end_of_stream") {
            Some(node) => {
                let help =
                    "with keep, players wait for the next publication; with close, they are told, and closed";
                self.text_as(node, "keep or close", help, |_| true)
            }
            None => Some(defaults.end_of_stream),
        };
        let memory = match section.value("memory") {
            Some(node) => {
                let help = "of all that the port's streams and connections hold, such as `memory: 512MiB`";
                // A share of so many ports is not for the file to say.
                let fits = |memory: &Memory| !matches!(memory, Memory::Auto(0 | 2..));
                self.text_as(node, "auto, or 64MiB to 1024GiB", help, fits)
            }
            None => Some(defaults.memory),
        };
        Some(WorkerOptions {
            max_connections: max_connections?,
            max_streams: max_streams?,
            gop_cache: gop_cache?,
            latency: latency?,
            queue_length: queue_length?,
            publish_firstpkt_timeout: publish_firstpkt_timeout?,
            publish_normal_timeout: publish_normal_timeout?,
            end_of_stream: end_of_stream?,
            memory: memory?,
        })
    }

    /// The text of `node` as a `T` that `fits`.
    fn text_as<T: std::str::FromStr>(
        &mut self,
        node: &Node,
        expected: &str,
        help: &str,
        fits: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        let value = match &node.value {
            Value::Text(text) => text.parse().ok().filter(fits),
            _ => None,
        };
        if value.is_none() {
            self.expected(node, expected, help);
        }
        value
    }

    /// A whole number from 1 to `most`.
    fn number(&mut self, node: &Node, what: &str, most: u32) -> Option<u32> {
        let number = match &node.value {
            Value::Whole(n) => u32::try_from(*n).ok().filter(|n| (1..=most).contains(n)),
            _ => None,
        };
        if number.is_none() {
            self.expected(node, &format!("{what}, 1 to {most}"), "");
        }
        number
    }
}

fn lacks(place: Location, what: &str, key: &str, example: &str) -> Diagnostic {
    place.diagnostic(format!("{what} lacks `{key}`")).help(format!("add `{example}`"))
}

fn list(keys: &[&str]) -> String {
    keys.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
}

/// The one of `words` that `text` is most likely a misspelling of: at most two edits away, a swap of neighbours counted as one.
pub(super) fn nearest(text: &str, words: &[&'static str]) -> Option<&'static str> {
    /// Longest text that is compared, characters: no key is as long.
    const LONGEST: usize = 32;
    let text: String = text.chars().take(LONGEST).map(|c| c.to_ascii_lowercase()).collect();
    let edits = words.iter().map(|word| (strsim::osa_distance(&text, word), *word));
    let near = edits.filter(|(edits, word)| *edits <= 2 && *edits < word.len() / 2);
    near.min_by_key(|(edits, _)| *edits).map(|(_, word)| word)
}
