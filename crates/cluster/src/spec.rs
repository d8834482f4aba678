//! A cluster and what each of its processes is told.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::destination::Destination;
use crate::forward::Outbound;
use crate::memory::Memory;
use crate::span::{Latency, Span};

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes the encoders' streams and forwards them to every edge port.
    Origin,
    /// Takes streams from the origin alone and serves players.
    Edge,
    /// Publishes a file or the test card to the origin.
    Encoder,
}

impl Role {
    /// The word used in files, tables and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Edge => "edge",
            Self::Encoder => "encoder",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Opaque name of one supervised process, unique in its cluster: role-host-port, or `encoder`.
///
/// Safe as a file name: made of letters, digits, `.`, `-`, `_` and `:` only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitId(String);

impl UnitId {
    /// The id of the worker that serves `host:port`.
    #[must_use]
    pub fn worker(role: Role, host: &str, port: u16) -> Self {
        Self(format!("{role}-{host}-{port}"))
    }

    /// The id of the cluster's one encoder.
    #[must_use]
    pub fn encoder() -> Self {
        Self(Role::Encoder.as_str().to_owned())
    }

    /// Names a target beyond the edges where edges are named by the id of their worker; no process has it.
    #[must_use]
    pub fn outbound(outbound: &Outbound) -> Self {
        Self(format!("out:{}", outbound.name))
    }

    /// The same with its address: names it in what outlives a worker.
    #[must_use]
    pub fn outbound_at(outbound: &Outbound) -> Self {
        Self(format!("out:{} {}", outbound.name, outbound.to))
    }

    /// Role, host and port of it; an encoder has an empty host and port 0.
    #[must_use]
    pub fn parts(&self) -> (Role, &str, u16) {
        let place = |role: Role| {
            let place = self.0.strip_prefix(role.as_str())?.strip_prefix('-')?;
            let (host, port) = place.rsplit_once('-')?;
            Some((role, host, port.parse().ok()?))
        };
        place(Role::Origin).or_else(|| place(Role::Edge)).unwrap_or((Role::Encoder, "", 0))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What players get when a publication is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndOfStream {
    /// They stay and wait for the next publication, as with SRS: an encoder that comes back loses nobody.
    Keep,
    /// They are told, and closed: recorders end their file.
    Close,
}

impl EndOfStream {
    /// The word used in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for EndOfStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EndOfStream {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Keep, Self::Close].into_iter().find(|end| end.as_str() == text).ok_or(())
    }
}

/// What one worker may use and how it serves. `worker:` in cluster.yaml sets the defaults; the origin and an edge may override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerOptions {
    /// Players served at once. Costs one descriptor and at most a few KiB each; a play beyond it is refused with an
    /// RTMP status. Ingest, control and probes have slots of their own. Default 10240.
    pub max_connections: u32,
    /// Streams that are published or still hold media at once: each costs log memory here and on every edge, and on the origin one
    /// descriptor for each edge port. For one more, the one that ended first drops its media; when all are published, a publish is
    /// refused, unless one of them has to make room. 1 to 1000, default 64.
    pub max_streams: u32,
    /// A joining player starts with the newest whole group of pictures at once; off, its video waits for the next
    /// keyframe, 5 s at most, and it is closer to live. Default true.
    pub gop_cache: bool,
    /// How long media may wait so that one send carries more of it: less costs more of the core. Default `auto`.
    pub latency: Latency,
    /// Media kept for players that are slower than the stream, beside the newest group of pictures, which is kept for those who join;
    /// one further behind skips to the newest keyframe. Longer costs
    /// memory, once for all players; shorter makes a player with a short hiccup lose more. 1 s to 120 s, default 30 s.
    pub queue_length: Span,
    /// From a publish to its first media, or the next part of it: then the name is free again. Too short cuts encoders that
    /// start slowly. 1 s to 3600 s, default 20 s, as SRS `firstpkt_timeout`.
    pub publish_firstpkt_timeout: Span,
    /// How long a publisher may send nothing, not even an answer to a ping, before its name is free again. Too short cuts slow
    /// links, too long keeps the name for an encoder that is gone. A forwarder has twice this time. 1 s to 3600 s, default 5 s,
    /// as SRS `normal_timeout`.
    pub publish_normal_timeout: Span,
    /// What players get when a publication is over. Default `keep`.
    pub end_of_stream: EndOfStream,
    /// Memory for media and for what connections make the port hold. Beyond it connections that neither publish nor play are cut first,
    /// then media for slow players are dropped early, then the connections that hold most are cut. Less makes that happen sooner, more
    /// may leave the machine without. 64 MiB to 1024 GiB, default `auto`.
    pub memory: Memory,
}

impl WorkerOptions {
    /// Largest `max_connections`: with its reserve and forwarders such a port stays just below the 1048576 descriptors
    /// that Linux lets a process have unless `fs.nr_open` is raised.
    pub const MAX_CONNECTIONS: u32 = 1_000_000;
    /// Largest `max_streams`: beyond it the reports of an origin with many edge ports would keep it from its work.
    pub const MAX_STREAMS: u32 = 1_000;
    /// Shortest and longest `queue_length`.
    pub const QUEUE_LENGTHS: std::ops::RangeInclusive<Span> =
        Span::from_millis(1_000)..=Span::from_millis(120_000);
    /// Shortest and longest `publish_firstpkt_timeout` and `publish_normal_timeout`.
    pub const PUBLISH_TIMEOUTS: std::ops::RangeInclusive<Span> =
        Span::from_millis(1_000)..=Span::from_millis(3_600_000);
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            max_connections: 10_240,
            max_streams: 64,
            gop_cache: true,
            latency: Latency::Auto,
            queue_length: Span::from_millis(30_000),
            publish_firstpkt_timeout: Span::from_millis(20_000),
            publish_normal_timeout: Span::from_millis(5_000),
            end_of_stream: EndOfStream::Keep,
            memory: Memory::Auto(1),
        }
    }
}

/// A machine of the cluster, by the name that the file has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What others connect to: an address or a name, as written.
    pub name: String,
    /// The address of `name`, as it was when the file was read.
    pub address: IpAddr,
}

/// One RTMP port of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Origin or edge.
    pub role: Role,
    /// Where it is.
    pub host: Host,
    /// 1–65535, as others connect to it.
    pub port: u16,
    /// What is bound: `listen` if written, else the address of `host`.
    pub listen: IpAddr,
    /// The effective options.
    pub options: WorkerOptions,
}

impl Port {
    /// The id of this port's worker.
    #[must_use]
    pub fn id(&self) -> UnitId {
        UnitId::worker(self.role, &self.host.name, self.port)
    }

    /// The address that is bound.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.port)
    }

    /// The address that this port's own connections come from: the one it is bound to, if that is one.
    #[must_use]
    pub fn source_address(&self) -> IpAddr {
        if self.listen.is_unspecified() { self.host.address } else { self.listen }
    }

    /// Where processes of the same machine reach it, whatever its name stands for and whether they reach its outer address:
    /// what is bound, or loopback where all addresses are.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        let ip = match self.listen {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.port)
    }

    /// The forward target of an origin of the same machine.
    #[must_use]
    pub fn target_here(&self) -> Target {
        let address = Some(self.local_addr().ip());
        Target { id: self.id(), host: self.host.name.clone(), port: self.port, address }
    }

    /// The address for a stream here, where processes of the same machine reach it.
    #[must_use]
    pub fn local_url(&self, stream: &str) -> String {
        format!("rtmp://{}/{stream}", self.local_addr())
    }

    /// The play or publish URL of a stream here, e.g. `rtmp://127.0.0.6:1935/live/livestream`.
    #[must_use]
    pub fn url(&self, stream: &str) -> String {
        format!("rtmp://{self}/{stream}")
    }
}

/// `host:port`, as others connect to it.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_port(&self.host.name, self.port))
    }
}

/// The hosts of `ports`, each once, in the order in which they come first.
pub fn hosts<'a>(ports: impl IntoIterator<Item = &'a Port>) -> Vec<&'a Host> {
    let mut hosts = Vec::new();
    for port in ports {
        if !hosts.contains(&&port.host) {
            hosts.push(&port.host);
        }
    }
    hosts
}

/// `host:port`, with brackets around an IPv6 address.
#[must_use]
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What the encoder sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EncoderSource {
    /// The moving picture and tone that are built into srsctl.
    TestCard,
    /// An FLV file, absolute path.
    File(PathBuf),
}

/// The `encoder:` of cluster.yaml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// What is sent, in real time, again and again.
    pub source: EncoderSource,
    /// `app/stream` on the first origin.
    pub stream: String,
}

/// A cluster, checked: ports are unique, an edge is never an origin, there is at least one of both. Of one that is on several machines
/// (see [`Cluster::only`]) `origins` and `edges` are what is on one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Letters, digits, `-` and `_`; names the state directory.
    pub name: String,
    /// The ports that encoders publish to, in the file's order. A file names one today.
    pub origins: Vec<Port>,
    /// Every edge port, in the file's order.
    pub edges: Vec<Port>,
    /// The ports on other machines, origins first, in the file's order.
    pub elsewhere: Vec<Port>,
    /// How an operator gets to the hosts that say so, by the host's name.
    pub ssh: BTreeMap<String, Destination>,
    /// The supervised encoder, if any; it runs beside the first origin.
    pub encoder: Option<Encoder>,
    /// Where the origin sends streams beyond the edges, in the file's order.
    pub forward: Vec<Outbound>,
}

impl Cluster {
    /// The origin's port where the file names none: RTMP's own (IANA `macromedia-fcs`).
    pub const ORIGIN_PORT: u16 = 1935;
    /// Most edge ports: the origin sends every stream once to each, and its report of them has to fit one
    /// packet of the control socket.
    pub const MAX_EDGE_PORTS: usize = 256;

    /// Origins first, then the edges, in the file's order.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.origins.iter().chain(&self.edges)
    }

    /// The forward targets of an origin, one an edge port. Those on other machines are looked up at each connect.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let others = self.elsewhere.iter().filter(|port| port.role == Role::Edge);
        let others = others.map(|port| Target { address: None, ..port.target_here() });
        self.edges.iter().map(Port::target_here).chain(others).collect()
    }

    /// What the worker of `port` is told; `secret_file` holds the secret between origin and edges.
    #[must_use]
    pub fn worker_spec(&self, port: &Port, secret_file: PathBuf) -> WorkerSpec {
        let memory = match port.options.memory {
            Memory::Auto(_) => Memory::Auto(u32::try_from(self.ports().count()).unwrap_or(u32::MAX)),
            fixed @ Memory::Fixed(_) => fixed,
        };
        let elsewhere = self.elsewhere.iter().filter(|port| port.role == Role::Origin);
        let origins = self.origins.iter().chain(elsewhere);
        WorkerSpec {
            id: port.id(),
            cluster: self.name.clone(),
            role: port.role,
            host: port.host.name.clone(),
            listen: port.listen_addr(),
            address: Some(port.host.address).filter(|address| *address != port.listen),
            options: WorkerOptions { memory, ..port.options.clone() },
            sources: origins.map(Port::source_address).collect(),
            forward: if port.role == Role::Origin { self.targets() } else { Vec::new() },
            outbound: if port.role == Role::Origin { self.forward.clone() } else { Vec::new() },
            drain: Drain::No,
            secret_file,
        }
    }

    /// What the encoder's process is told, if the cluster has an encoder and its origin is here.
    #[must_use]
    pub fn encoder_spec(&self) -> Option<EncoderSpec> {
        let (encoder, origin) = (self.encoder.as_ref()?, self.origins.first()?);
        Some(EncoderSpec {
            id: UnitId::encoder(),
            cluster: self.name.clone(),
            source: encoder.source.clone(),
            url: origin.local_url(&encoder.stream),
        })
    }
}

/// Where an origin forwards to: one edge port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The edge's worker; part of the proof that the forwarder belongs to the cluster.
    pub id: UnitId,
    /// What players connect to.
    pub host: String,
    /// 1–65535.
    pub port: u16,
    /// Where it is reached on this machine, whatever its name stands for. Without it `host` is looked up at each connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// What becomes of the players and encoders of a port that was taken out of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drain {
    /// It is not taken out.
    #[default]
    No,
    /// They stay, and nobody comes.
    Refuse,
    /// They are told that it is over, and closed; nobody comes.
    Close,
}

impl Drain {
    /// Whether it is not taken out.
    #[must_use]
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }

    /// The word used in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Refuse => "refuse",
            Self::Close => "close",
        }
    }
}

/// All that one worker is told: its generated config file, and what it is told when that changes while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSpec {
    /// Who this worker is.
    pub id: UnitId,
    /// The cluster it belongs to.
    pub cluster: String,
    /// [`Role::Origin`] or [`Role::Edge`].
    pub role: Role,
    /// What others connect to.
    pub host: String,
    /// The address its listener is bound to; the supervisor binds it and lends it.
    pub listen: SocketAddr,
    /// What `host` stood for when it was brought up, where that is not the address of `listen`. Kept for the next supervisor,
    /// which may find no name service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Limits and behaviour.
    pub options: WorkerOptions,
    /// Where an edge's streams come from, the origins' addresses: slots are kept for them. The same list on an origin, whose
    /// encoder may run beside it.
    pub sources: Vec<IpAddr>,
    /// Where every stream is forwarded; empty on an edge.
    pub forward: Vec<Target>,
    /// Where those are forwarded that fit, beyond the edges; empty on an edge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<Outbound>,
    /// Whether it was taken out of the cluster.
    #[serde(default, skip_serializing_if = "Drain::is_no")]
    pub drain: Drain,
    /// Absolute path of the file, mode 0600, with the secret between origin and edges.
    pub secret_file: PathBuf,
}

impl WorkerSpec {
    /// Connections kept beyond `max_connections` and `max_streams` for control, probes and peers that have not said what they want, so
    /// that a rush of players never locks the origin out.
    pub const RESERVED_CONNECTIONS: u32 = 64;
    /// Descriptors a worker uses besides connections and forwarders: listener, control, log, lock, epoll, some spare.
    pub const SPARE_FDS: u32 = 64;

    /// What [`host`](Self::host) stood for when it was brought up.
    #[must_use]
    pub fn host_address(&self) -> IpAddr {
        self.address.unwrap_or_else(|| self.listen.ip())
    }

    /// The connections this worker takes in: players, publishers and the reserve.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections_beside(0, 0)
    }

    /// The same while `players` play and `publishers` publish. There may be more of them than the options allow: they came when those
    /// allowed more, and they stay. The reserve is there for others all the same.
    #[must_use]
    pub fn connections_beside(&self, players: u32, publishers: u32) -> u32 {
        let WorkerOptions { max_connections, max_streams, .. } = self.options;
        let (players, publishers) = (max_connections.max(players), max_streams.max(publishers));
        players.saturating_add(publishers).saturating_add(Self::RESERVED_CONNECTIONS)
    }

    /// The number of descriptors this worker may need at its limits.
    #[must_use]
    pub fn fds_needed(&self) -> u64 {
        u64::from(self.connections())
            + u64::from(self.options.max_streams) * (self.forward.len() + self.outbound.len()) as u64
            + u64::from(Self::SPARE_FDS)
    }
}

/// All that the encoder's process is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// Who this process is.
    pub id: UnitId,
    /// The cluster it belongs to.
    pub cluster: String,
    /// What it sends.
    pub source: EncoderSource,
    /// Where it publishes: the origin's [`Port::local_url`].
    pub url: String,
}

/// What one supervised process is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessSpec {
    /// An RTMP port.
    Worker(WorkerSpec),
    /// The encoder.
    Encoder(EncoderSpec),
}

impl ProcessSpec {
    /// Who the process is.
    #[must_use]
    pub fn id(&self) -> &UnitId {
        match self {
            Self::Worker(spec) => &spec.id,
            Self::Encoder(spec) => &spec.id,
        }
    }

    /// What the process is for.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Worker(spec) => spec.role,
            Self::Encoder(_) => Role::Encoder,
        }
    }
}
