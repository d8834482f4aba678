//! What is checked before anything is touched: hosts, descriptor limits, the encoder's file. Ports are checked by
//! binding them, the state directory by writing to it.

use std::fs::File;
use std::io::{self, BufRead as _, Seek as _};
use std::path::{Path, PathBuf};

use cluster::{Cluster, EncoderSource, Memory, Port, WorkerSpec};
use rtmp::flv::Reader;
use rtmp::message_type;
use rustix::process::Resource;

use crate::exec::listeners::{self, ListenError, LocalAddresses};
use crate::host::dirs::ClusterDirs;

/// One reason why a cluster cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A port cannot be served here.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Too few descriptors.
    #[error(
        "{unit} needs {needed} file descriptors ({why}), the limit is {limit}; lower max_connections or max_streams, or raise the limit ({how})"
    )]
    Descriptors {
        /// The worker.
        unit: cluster::UnitId,
        /// How many.
        needed: u64,
        /// What for.
        why: String,
        /// How many there may be.
        limit: u64,
        /// How the limit is raised.
        how: &'static str,
    },
    /// More memory than there is.
    #[error("the ports may use {needed} MiB of memory together, this machine has {has} MiB; lower `memory:`")]
    Memory {
        /// What `memory:` adds up to.
        needed: u64,
        /// What there is.
        has: u64,
    },
    /// Too little memory for its streams.
    #[error(
        "{unit} takes {streams} streams with {has} MiB of memory, and each needs {least} MiB at least; lower max_streams or raise memory"
    )]
    Streams {
        /// The worker.
        unit: cluster::UnitId,
        /// `max_streams`.
        streams: u32,
        /// What it may use.
        has: u64,
        /// What a stream needs.
        least: u64,
    },
    /// The encoder's file.
    #[error("encoder: {} {what}", .path.display())]
    Encoder {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] crate::host::files::StateError),
}

/// Checks all of `cluster` that can be checked without a trace.
#[must_use]
pub fn check(cluster: &Cluster, specs: &[WorkerSpec]) -> Vec<Problem> {
    let hosts = hosts(cluster).into_iter();
    let limits = FdLimits::read();
    let descriptors = specs.iter().filter_map(|spec| limits.check(spec).err());
    let encoder = cluster.encoder.as_ref().and_then(|encoder| match &encoder.source {
        EncoderSource::TestCard => None,
        EncoderSource::File(path) => check_encoder_file(path).err(),
    });
    hosts.chain(descriptors).chain(memory(specs, cluster::memory::of_machine())).chain(encoder).collect()
}

/// Whether a port can be served on this machine, as its addresses are now.
pub fn here() -> impl Fn(&Port) -> bool {
    let here = LocalAddresses::read();
    move |port| here.check(port).is_ok()
}

/// What would keep `cluster`, as this machine sees it, from being started here: as [`check`], and its ports and its state directory are tried.
/// Nothing is left of that.
#[must_use]
pub fn rehearse(cluster: &Cluster, dirs: &ClusterDirs) -> Vec<Problem> {
    let specs: Vec<_> = cluster.ports().map(|port| cluster.worker_spec(port, dirs.secret())).collect();
    let mut problems = check(cluster, &specs);
    if problems.is_empty() {
        problems.extend(listeners::bind_all(cluster.ports()).err().into_iter().flatten().map(Problem::from));
    }
    let room = dirs.create().and_then(|_created| dirs.prove_room());
    problems.extend(room.err().map(Problem::from));
    problems
}

/// The ports of `cluster` that are not on this machine.
#[must_use]
pub(crate) fn hosts(cluster: &Cluster) -> Vec<Problem> {
    let here = LocalAddresses::read();
    cluster.ports().filter_map(|port| here.check(port).err()).map(Problem::from).collect()
}

/// What is wrong with the memory of workers on a machine of `machine` bytes.
fn memory(specs: &[WorkerSpec], machine: u64) -> Vec<Problem> {
    let needed: u64 = specs.iter().map(|spec| spec.options.memory.bytes(machine)).sum();
    let is_set = specs.iter().any(|spec| matches!(spec.options.memory, Memory::Fixed(_)));
    let too_much =
        (is_set && needed > machine).then_some(Problem::Memory { needed: needed >> 20, has: machine >> 20 });
    let streams = specs.iter().filter_map(|spec| {
        let (has, streams) = (spec.options.memory.bytes(machine) >> 20, spec.options.max_streams);
        let least = Memory::OF_A_STREAM;
        (u64::from(streams) * least > has).then(|| Problem::Streams {
            unit: spec.id.clone(),
            streams,
            has,
            least,
        })
    });
    too_much.into_iter().chain(streams).collect()
}

struct FdLimits {
    /// Hard RLIMIT_NOFILE; `None` if it does not bind this process.
    hard: Option<u64>,
    /// Above it even root cannot go.
    nr_open: u64,
}

impl FdLimits {
    fn read() -> Self {
        let nr_open = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
        let nr_open = nr_open.and_then(|text| text.trim().parse().ok()).unwrap_or(1 << 20);
        // The right to raise it is tried, since root in a container may lack it.
        let now = rustix::process::getrlimit(Resource::Nofile);
        let higher = rustix::process::Rlimit { maximum: now.maximum.map(|hard| hard + 1), ..now };
        let may_raise = now.maximum.is_none_or(|hard| hard < nr_open)
            && rustix::process::setrlimit(Resource::Nofile, higher).is_ok()
            && rustix::process::setrlimit(Resource::Nofile, now).is_ok();
        Self { hard: if may_raise { None } else { now.maximum }, nr_open }
    }

    fn check(&self, spec: &WorkerSpec) -> Result<(), Problem> {
        let needed = spec.fds_needed();
        let (limit, how) = match self.hard {
            Some(hard) if hard < self.nr_open => (hard, "ulimit -Hn, or LimitNOFILE= of its service"),
            Some(_) | None => (self.nr_open, "sysctl fs.nr_open"),
        };
        if needed <= limit {
            return Ok(());
        }
        let cluster::WorkerOptions { max_connections, max_streams, .. } = spec.options;
        let mut why = format!("max_connections {max_connections}, max_streams {max_streams}");
        if !spec.forward.is_empty() {
            why.push_str(&format!(", each forwarded to {} edge ports", spec.forward.len()));
        }
        if !spec.outbound.is_empty() {
            why.push_str(&format!(", and to {} targets of `forward`", spec.outbound.len()));
        }
        Err(Problem::Descriptors { unit: spec.id.clone(), needed, why: why + ", reserve", limit, how })
    }
}

fn check_encoder_file(path: &Path) -> Result<(), Problem> {
    let problem = |what: &str| Problem::Encoder { path: path.to_owned(), what: what.to_owned() };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            problem("does not exist; correct `source` of `encoder` in the cluster file")
        }
        io::ErrorKind::PermissionDenied => problem("may not be read by this user"),
        _ => problem(&format!("cannot be opened: {error}")),
    })?;
    if file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(problem("is no file"));
    }
    let mut file = io::BufReader::with_capacity(1 << 20, file);
    let mut reader = Reader::new();
    let mut media = false;
    loop {
        let read = file.fill_buf().map_err(|error| problem(&format!("cannot be read: {error}")))?;
        let len = read.len();
        if len == 0 {
            break;
        }
        reader.push(read);
        file.consume(len);
        loop {
            let tag = reader.next_tag();
            match tag.map_err(|error| {
                problem(&format!("is no FLV file ({error}); convert it: ffmpeg -i IN -c copy OUT.flv"))
            })? {
                Some(tag) => {
                    media |= tag.type_id == message_type::AUDIO || tag.type_id == message_type::VIDEO
                }
                None => break,
            }
        }
    }
    if file.stream_position().is_ok_and(|length| length == 0) {
        return Err(problem("is empty"));
    }
    if !reader.is_clean_end() {
        return Err(problem("is cut off: it ends within a tag; mend it: ffmpeg -i IN -c copy OUT.flv"));
    }
    if !media {
        return Err(problem("holds no audio and no video"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Encoder, Host, Role, WorkerOptions};

    fn port(role: Role, host: &str) -> Port {
        let options = WorkerOptions { max_connections: 10, ..WorkerOptions::default() };
        let address = host.parse().unwrap();
        let host = Host { name: host.into(), address };
        Port { role, host, port: 1935, listen: address, options }
    }

    fn cluster() -> Cluster {
        Cluster {
            name: "live".into(),
            origins: vec![port(Role::Origin, "127.0.0.5")],
            edges: vec![port(Role::Edge, "127.0.0.6")],
            elsewhere: Vec::new(),
            forward: Vec::new(),
            ssh: std::collections::BTreeMap::new(),
            encoder: None,
        }
    }

    fn problems(cluster: &Cluster) -> Vec<String> {
        let specs: Vec<_> = cluster.ports().map(|port| cluster.worker_spec(port, "/s".into())).collect();
        check(cluster, &specs).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_cluster_has_no_problem() {
        assert_eq!(problems(&cluster()), Vec::<String>::new());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut cluster = cluster();
        cluster.origins = vec![port(Role::Origin, "203.0.113.1")];
        cluster.edges = vec![port(Role::Edge, "203.0.113.2")];
        cluster.edges[0].options.max_connections = u32::MAX;
        let found = problems(&cluster);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].contains("203.0.113.1 is not this machine"), "{found:#?}");
        assert!(
            found[2].contains("max_connections 4294967295") && found[2].contains("the limit is"),
            "{found:#?}"
        );
    }

    const GOOD: &[u8] = b"FLV\x01\x05\0\0\0\x09\0\0\0\0\x08\0\0\x02\0\0\0\0\0\0\0\xAF\x01\0\0\0\x0D";

    #[test]
    fn a_bad_encoder_file_is_told_by_what_is_wrong_with_it() {
        let temporary = tempfile::tempdir().unwrap();
        let cases: [(&str, Option<&[u8]>, &str); 6] = [
            ("missing.flv", None, "does not exist"),
            ("empty.flv", Some(b""), "is empty"),
            ("text.flv", Some(b"hello, I am no flv"), "is no FLV file"),
            ("cut.flv", Some(&GOOD[..GOOD.len() - 6]), "is cut off"),
            ("header.flv", Some(b"FLV\x01\x05\0\0\0\x09\0\0\0\0"), "no audio and no video"),
            ("good.flv", Some(GOOD), ""),
        ];
        for (name, bytes, expected) in cases {
            let path = temporary.path().join(name);
            if let Some(bytes) = bytes {
                std::fs::write(&path, bytes).unwrap();
            }
            let encoder = Encoder { source: EncoderSource::File(path), stream: "live/livestream".into() };
            let found = problems(&Cluster { encoder: Some(encoder), ..cluster() });
            match expected {
                "" => assert_eq!(found, Vec::<String>::new()),
                _ => assert!(found.len() == 1 && found[0].contains(expected), "{name}: {found:?}"),
            }
        }
        let dir = Encoder {
            source: EncoderSource::File(temporary.path().into()),
            stream: "live/livestream".into(),
        };
        assert!(problems(&Cluster { encoder: Some(dir), ..cluster() })[0].contains("is no file"));
    }

    #[test]
    fn memory_is_reckoned_with_the_machine_and_with_the_streams() {
        let told = |options: WorkerOptions, mib: u64| {
            let mut cluster = cluster();
            cluster.edges[0].options = options;
            let specs: Vec<_> = cluster.ports().map(|port| cluster.worker_spec(port, "/s".into())).collect();
            let found: Vec<_> = memory(&specs, mib << 20).iter().map(ToString::to_string).collect();
            found.join("\n")
        };
        let fixed = |mib| WorkerOptions { memory: Memory::Fixed(mib), ..WorkerOptions::default() };
        assert_eq!(told(WorkerOptions::default(), 256), "", "auto never asks for too much");
        assert_eq!(told(fixed(300), 1_024), "");
        assert!(told(fixed(1_000), 1_024).contains("1128 MiB of memory together, this machine has 1024 MiB"));
        let many = WorkerOptions { max_streams: 400, ..fixed(300) };
        assert!(told(many, 4_096).contains("takes 400 streams with 300 MiB"));
    }

    #[test]
    fn the_hard_limit_binds_below_what_the_kernel_allows() {
        let spec = cluster().worker_spec(&cluster().edges[0], "/s".into());
        let text = |hard, nr_open| FdLimits { hard, nr_open }.check(&spec).map_err(|error| error.to_string());
        assert_eq!(text(None, 1 << 20), Ok(()));
        assert!(text(Some(100), 1 << 20).unwrap_err().contains("the limit is 100;"));
        assert!(text(None, 50).unwrap_err().contains("fs.nr_open"));
        assert!(text(Some(201), 1 << 20).is_err());
        assert_eq!(text(Some(202), 1 << 20), Ok(()), "10 + 64 + 64 + 64 is just enough");
        // Streams of an origin need a descriptor for each edge port.
        let mut cluster = cluster();
        cluster.origins[0].options.max_streams = 1_000;
        let spec = cluster.worker_spec(&cluster.origins[0], "/s".into());
        let error = FdLimits { hard: Some(2_137), nr_open: 1 << 20 }.check(&spec).unwrap_err().to_string();
        assert!(error.contains("max_streams 1000, each forwarded to 1 edge ports"), "{error}");
    }
}
