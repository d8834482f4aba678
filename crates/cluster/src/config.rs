//! The generated config file of one process: readable, one comment a key, read back by the process alone.

use std::fmt::Write as _;
use std::path::Path;

use crate::file::{FileError, read_config};
use crate::forward::{Glob, Key, Outbound};
use crate::spec::{Drain, EncoderSource, EncoderSpec, Role, Target, WorkerOptions, WorkerSpec};

impl WorkerSpec {
    /// The text of this worker's config file, which [`WorkerSpec::from_file`] reads back. Paths have to be UTF-8;
    /// in any other the unreadable bytes are replaced, and the file it names will not be found.
    #[must_use]
    pub fn to_file_text(&self) -> String {
        let mut out = header(&self.cluster, &format!("One RTMP port: the {} {}.", self.role, self.host));
        key(&mut out, "Who this worker is: role-host-port.", "id", &quote(self.id.as_str()));
        key(&mut out, "The cluster it belongs to.", "cluster", &quote(&self.cluster));
        let role = "`origin` takes the encoders' streams and forwards them; `edge` takes the origin's and serves players.";
        key(&mut out, role, "role", self.role.as_str());
        key(&mut out, "What others connect to.", "host", &quote(&self.host));
        let listen = "The address of the listener that the supervisor binds and lends.";
        key(&mut out, listen, "listen", &quote(&self.listen.to_string()));
        if let Some(address) = self.address {
            let stood = "What `host` stood for when it was brought up.";
            key(&mut out, stood, "address", &quote(&address.to_string()));
        }
        key(&mut out, "Limits and behaviour.", "options", "");
        let WorkerOptions {
            max_connections,
            max_streams,
            gop_cache,
            latency,
            queue_length,
            publish_firstpkt_timeout,
            publish_normal_timeout,
            end_of_stream,
            memory,
        } = &self.options;
        let most = "Players served at once; one more is refused with an RTMP status.";
        let _ = writeln!(out, "  # {most}\n  max_connections: {max_connections}");
        let streams = "Streams published at once; one more is refused.";
        let _ = writeln!(out, "  # {streams}\n  max_streams: {max_streams}");
        let cache = "true: a joining player starts with the newest whole group of pictures at once; false: it waits for the next keyframe.";
        let _ = writeln!(out, "  # {cache}\n  gop_cache: {gop_cache}");
        let wait = "How long media may wait so that one send carries more: auto, or 0ms to 350ms.";
        let _ = writeln!(out, "  # {wait}\n  latency: {latency}");
        let queue = "Media kept for slow players; one further behind skips to the newest keyframe.";
        let _ = writeln!(out, "  # {queue}\n  queue_length: {queue_length}");
        let first = "From a publish to its first media; then the name is free again.";
        let _ = writeln!(out, "  # {first}\n  publish_firstpkt_timeout: {publish_firstpkt_timeout}");
        let normal = "How long a publisher may send nothing; a forwarder has twice this time.";
        let _ = writeln!(out, "  # {normal}\n  publish_normal_timeout: {publish_normal_timeout}");
        let end = "When a publication is over, players wait for the next one (keep), or are told and closed (close).";
        let _ = writeln!(out, "  # {end}\n  end_of_stream: {end_of_stream}");
        let bytes = "Memory for media and connections: an amount, or auto/PORTS, one of so many shares of what the machine gives.";
        let _ = writeln!(out, "  # {bytes}\n  memory: {memory}");
        let sources = "The origins' addresses: slots are kept for them however many players there are.";
        let addresses: Vec<_> = self.sources.iter().map(|a| quote(&a.to_string())).collect();
        key(&mut out, sources, "sources", &format!("[{}]", addresses.join(", ")));
        let forward = "Every stream is sent to each of these edge ports, at `address`; none on an edge.";
        key(&mut out, forward, "forward", if self.forward.is_empty() { "[]" } else { "" });
        for Target { id, host, port, address } in &self.forward {
            let (id, host) = (quote(id.as_str()), quote(host));
            let address =
                address.map(|at| format!(", address: {}", quote(&at.to_string()))).unwrap_or_default();
            let _ = writeln!(out, "  - {{ id: {id}, host: {host}, port: {port}{address} }}");
        }
        if !self.outbound.is_empty() {
            let beyond = "Beyond the edges: streams that fit `streams` and not `except` are published at `to`; what `key` names is read at each connect.";
            key(&mut out, beyond, "outbound", "");
            for Outbound { name, to, streams, except, key } in &self.outbound {
                let list = |globs: &[Glob]| {
                    let all: Vec<_> = globs.iter().map(|glob| quote(&glob.to_string())).collect();
                    format!("[{}]", all.join(", "))
                };
                let except =
                    if except.is_empty() { String::new() } else { format!(", except: {}", list(except)) };
                let key = match key {
                    None => String::new(),
                    Some(Key::File(path)) => format!(", key: {{ file: {} }}", quote(&path.to_string_lossy())),
                    Some(Key::Env(name)) => format!(", key: {{ env: {} }}", quote(name)),
                };
                let (name, to, streams) = (quote(name), quote(to.as_str()), list(streams));
                let _ = writeln!(out, "  - {{ name: {name}, to: {to}, streams: {streams}{except}{key} }}");
            }
        }
        if self.drain != Drain::No {
            let drain =
                "Taken out of the cluster: nobody comes; who is there stays (refuse), or is closed (close).";
            key(&mut out, drain, "drain", self.drain.as_str());
        }
        let secret =
            "The file with the secret by which the edges know the origin; readable by its owner alone.";
        key(&mut out, secret, "secret_file", &quote(&self.secret_file.to_string_lossy()));
        out
    }

    /// Reads what [`WorkerSpec::to_file_text`] wrote.
    pub fn from_file(path: &Path) -> Result<Self, FileError> {
        read_config(path, |spec: &Self| {
            if spec.role == Role::Encoder {
                return Err("an encoder is no worker".into());
            }
            if !(1..=WorkerOptions::MAX_CONNECTIONS).contains(&spec.options.max_connections) {
                return Err(format!("max_connections is not 1 to {}", WorkerOptions::MAX_CONNECTIONS));
            }
            if !(1..=WorkerOptions::MAX_STREAMS).contains(&spec.options.max_streams) {
                return Err(format!("max_streams is not 1 to {}", WorkerOptions::MAX_STREAMS));
            }
            if !WorkerOptions::QUEUE_LENGTHS.contains(&spec.options.queue_length) {
                return Err("queue_length is not 1s to 120s".into());
            }
            let timeouts = [spec.options.publish_firstpkt_timeout, spec.options.publish_normal_timeout];
            if timeouts.iter().any(|timeout| !WorkerOptions::PUBLISH_TIMEOUTS.contains(timeout)) {
                return Err("a publish timeout is not 1s to 3600s".into());
            }
            if spec.outbound.len() > Outbound::MAX {
                return Err(format!("more than {} targets of outbound", Outbound::MAX));
            }
            if spec.listen.port() == 0 || spec.forward.iter().any(|t| t.port == 0) {
                return Err("port 0 is no port".into());
            }
            Ok(())
        })
    }
}

impl EncoderSpec {
    /// The text of the encoder's config file, which [`EncoderSpec::from_file`] reads back. For paths see
    /// [`WorkerSpec::to_file_text`].
    #[must_use]
    pub fn to_file_text(&self) -> String {
        let mut out = header(&self.cluster, "The encoder.");
        key(&mut out, "Who this process is.", "id", &quote(self.id.as_str()));
        key(&mut out, "The cluster it belongs to.", "cluster", &quote(&self.cluster));
        let source = "What is sent in real time, again and again: `test-card`, or `file:` and the path of an FLV file.";
        match &self.source {
            EncoderSource::TestCard => key(&mut out, source, "source", "test-card"),
            EncoderSource::File(path) => {
                key(&mut out, source, "source", &format!("{{ file: {} }}", quote(&path.to_string_lossy())));
            }
        }
        key(&mut out, "Where it is published.", "url", &quote(&self.url));
        out
    }

    /// Reads what [`EncoderSpec::to_file_text`] wrote.
    pub fn from_file(path: &Path) -> Result<Self, FileError> {
        read_config(path, |_| Ok(()))
    }
}

fn header(cluster: &str, what: &str) -> String {
    format!(
        "# {}\n# Generated by `srsctl up` for the cluster {}. Edits here are overwritten:\n\
         # change the cluster file and run `srsctl up` again.\n",
        comment(what),
        quote(cluster)
    )
}

fn key(out: &mut String, about: &str, key: &str, value: &str) {
    let space = if value.is_empty() { "" } else { " " };
    let _ = writeln!(out, "\n# {about}\n{key}:{space}{value}");
}

/// `text` on one line, for a comment.
fn comment(text: &str) -> String {
    text.chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
}

/// `text` as a double-quoted YAML scalar (YAML 1.2.2 §7.3.1), on one line.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if is_plain(c) => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Whether every reader of YAML, and every terminal, takes `c` as itself.
fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~') || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::UnitId;

    const STRANGE: &[&str] = &[
        "/var/lib/srsctl/live/secret",
        "/a b/c: d # e/- f",
        "/quo\"te's/back\\slash/{brace}/[x]/*&!|>%@`",
        "/line\nbreak\r\ttab/\u{1b}[2J/\u{85}\u{2028}\u{feff}\u{ffff}",
        "/直播/прямой/e\u{301}/\u{1f4fa}",
        "true",
        "",
        " ",
        "~",
        "\u{10ffff}\0",
    ];

    fn worker(text: &str) -> WorkerSpec {
        let port = 1936;
        WorkerSpec {
            id: UnitId::worker(Role::Origin, text, port),
            cluster: text.into(),
            role: Role::Origin,
            host: text.into(),
            listen: "[::1]:1936".parse().unwrap(),
            address: Some("127.0.0.9".parse().unwrap()),
            options: WorkerOptions { max_connections: 7, gop_cache: false, ..WorkerOptions::default() },
            sources: vec!["127.0.0.5".parse().unwrap(), "::1".parse().unwrap()],
            forward: vec![
                Target { id: UnitId::worker(Role::Edge, text, port), host: text.into(), port, address: None },
                Target {
                    id: UnitId::worker(Role::Edge, "::1", 1),
                    host: "::1".into(),
                    port: 65535,
                    address: Some("::1".parse().unwrap()),
                },
            ],
            outbound: vec![
                Outbound {
                    name: "backup".into(),
                    to: "rtmp://backup:1936/{app}/{stream}?k={key}".to_owned().try_into().unwrap(),
                    streams: vec!["live/*".to_owned().try_into().unwrap(), Glob::all()],
                    except: vec!["*/\"test*".to_owned().try_into().unwrap()],
                    key: Some(Key::File(text.into())),
                },
                Outbound {
                    name: "b".into(),
                    to: "rtmp://[::1]/{app}/{key}".to_owned().try_into().unwrap(),
                    streams: vec!["直播/a".to_owned().try_into().unwrap()],
                    except: Vec::new(),
                    key: Some(Key::Env("KEY".into())),
                },
            ],
            drain: Drain::No,
            secret_file: text.into(),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_worker_reads_back_what_was_written() {
        for text in STRANGE {
            let spec = worker(text);
            let written = file(&spec.to_file_text());
            assert_eq!(WorkerSpec::from_file(written.path()).unwrap(), spec);
            let drain = Drain::Refuse;
            let edge = WorkerSpec {
                role: Role::Edge,
                address: None,
                forward: Vec::new(),
                outbound: Vec::new(),
                drain,
                ..spec
            };
            let written = file(&edge.to_file_text());
            assert_eq!(WorkerSpec::from_file(written.path()).unwrap(), edge);
        }
    }

    #[test]
    fn an_encoder_reads_back_what_was_written() {
        for text in STRANGE {
            for source in [EncoderSource::TestCard, EncoderSource::File(text.into())] {
                let spec = EncoderSpec {
                    id: UnitId::encoder(),
                    cluster: (*text).into(),
                    source,
                    url: format!("rtmp://{text}/live/livestream"),
                };
                let written = file(&spec.to_file_text());
                assert_eq!(EncoderSpec::from_file(written.path()).unwrap(), spec);
            }
        }
    }

    #[test]
    fn every_key_has_a_comment_in_front_of_it() {
        let text = worker("a").to_file_text();
        let lines: Vec<_> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            if line.contains(": ") && !line.trim_start().starts_with(['#', '-']) {
                assert!(lines[i - 1].trim_start().starts_with("# "), "{line} in\n{text}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_shown_with_its_line() {
        for text in [
            worker("a").to_file_text() + "latency: 1\n",
            worker("a").to_file_text().replace("gop_cache:", "gop_cach:"),
        ] {
            let written = file(&text);
            let message = WorkerSpec::from_file(written.path()).unwrap_err().to_string();
            assert!(message.contains("unknown field") && message.contains(" | "), "{message}");
        }
    }

    #[test]
    fn what_the_system_cannot_read_now_is_told_from_a_file_that_is_wrong() {
        // The first page of no process can be read: EIO.
        let error = WorkerSpec::from_file(Path::new("/proc/self/mem")).unwrap_err();
        assert!(matches!(error, FileError::System(_)), "{error:?}");
        let error = WorkerSpec::from_file(Path::new("/nowhere/edge.yaml")).unwrap_err();
        assert!(matches!(error, FileError::Unreadable(_)), "{error:?}");
    }

    #[test]
    fn a_key_written_twice_is_refused() {
        let written = file(&(worker("a").to_file_text() + "role: edge\n"));
        let message = WorkerSpec::from_file(written.path()).unwrap_err().to_string();
        assert!(message.contains("role"), "{message}");
    }

    #[test]
    fn what_no_worker_can_be_is_refused() {
        let text = worker("a").to_file_text();
        for (from, to) in [
            ("role: origin", "role: encoder"),
            ("max_connections: 7", "max_connections: 0"),
            ("max_streams: 64", "max_streams: 1001"),
            ("memory: auto", "memory: 1"),
            (":1936\"", ":0\""),
            ("port: 65535", "port: 0"),
            ("secret_file", "#"),
        ] {
            assert!(text.contains(from), "{from}");
            let written = file(&text.replace(from, to));
            assert!(WorkerSpec::from_file(written.path()).is_err(), "{to}");
        }
    }
}
