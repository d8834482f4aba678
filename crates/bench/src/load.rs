//! What load to make.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use rtmp::url::{Url, UrlError};
use serde::{Deserialize, Serialize};

use crate::source::SourceError;

/// How long each address of a host that has several is tried.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Ramps that make sense, connections per second; the share of one of several processes included.
const RAMPS: RangeInclusive<f64> = 1e-6..=1e6;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Play a stream.
    Play,
    /// Publish a file in real time, again and again.
    Publish,
    /// Connect and read what comes, without RTMP: what a plain `send` loop is measured with.
    Drain,
}

/// A load: who connects where, how fast, for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// What the clients do.
    pub work: Work,
    /// `rtmp://host[:port]/app/stream`, clients take them in turn; for [`Work::Drain`] app and stream mean nothing.
    pub urls: Vec<String>,
    /// The FLV file of publishers.
    pub file: Option<PathBuf>,
    /// How many.
    pub clients: u32,
    /// Connections begun per second, above 0.
    pub ramp: f64,
    /// Seconds to go on when all were begun; 0: until stopped.
    pub duration: u32,
    /// Addresses to connect from, taken in turn; empty: what the system chooses. One serves some 28 000 connections to one port.
    pub sources: Vec<IpAddr>,
    /// Bytes per second that each player reads, once it plays; 0: none. `None`: all that comes.
    pub read_rate: Option<u64>,
    /// Receive buffer of each client's socket, bytes; `None`: what the system chooses.
    pub receive_buffer: Option<usize>,
    /// Whether each player writes its commands one by one and leaves Nagle's algorithm on, as ffmpeg and librtmp do.
    pub nagle: bool,
    /// Processes that share the clients; `None`: as many as descriptors require.
    pub processes: Option<u32>,
    /// Number of the first client; counts from 0.
    pub(crate) first: u32,
    /// Distance to the next client of this process.
    pub(crate) step: u32,
}

/// Why a load cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not an address.
    #[error("{url}: {source}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        source: UrlError,
    },
    /// Zero clients, or a ramp that is none, or no address.
    #[error("{0}")]
    Usage(&'static str),
    /// The host has no address.
    #[error("cannot find {host}: {source}")]
    Resolve {
        /// As given.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The system refused something the run needs.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl LoadError {
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}

/// A server's stream, looked up.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) address: SocketAddr,
}

impl Load {
    /// A load of `clients` that do `work` at `urls`: 100 begun per second, 60 s, one process unless descriptors require more.
    #[must_use]
    pub fn new(work: Work, clients: u32, urls: Vec<String>) -> Self {
        Self {
            work,
            urls,
            file: None,
            clients,
            ramp: 100.0,
            duration: 60,
            sources: Vec::new(),
            read_rate: None,
            receive_buffer: None,
            nagle: false,
            processes: None,
            first: 0,
            step: 1,
        }
    }

    /// Checks the load and looks its hosts up.
    pub(crate) fn targets(&self) -> Result<Vec<Target>, LoadError> {
        if self.clients == 0 {
            return Err(LoadError::Usage("how many clients? at least 1"));
        }
        if !RAMPS.contains(&self.ramp) {
            return Err(LoadError::Usage(
                "the ramp must be between 0.000001 and 1000000 connections per second",
            ));
        }
        if self.urls.is_empty() {
            return Err(LoadError::Usage("where to? rtmp://HOST[:PORT]/APP/STREAM"));
        }
        self.urls.iter().map(|url| target(url)).collect()
    }

    /// The name that publisher `index` uses: numbered from 1 when there are several.
    pub(crate) fn stream(&self, url: &Url, index: u32) -> String {
        if self.work != Work::Publish || (self.clients == 1 && self.step == 1) {
            return url.stream.clone();
        }
        let (name, parameters) = match url.stream.find('?') {
            Some(at) => url.stream.split_at(at),
            None => (&*url.stream, ""),
        };
        format!("{name}{}{parameters}", index + 1)
    }

    /// Client numbers of this process.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> + use<> {
        let (first, step) = (self.first, self.step.max(1));
        (0..self.clients).map(move |n| first.saturating_add(n.saturating_mul(step)))
    }

    /// The share of process `part` of `parts`.
    pub(crate) fn part(&self, part: u32, parts: u32) -> Self {
        let clients = self.clients / parts + u32::from(part < self.clients % parts);
        let ramp = self.ramp / f64::from(parts);
        Self { clients, ramp, processes: Some(1), first: part, step: parts, ..self.clone() }
    }
}

fn target(text: &str) -> Result<Target, LoadError> {
    let url: Url = text.parse().map_err(|source| LoadError::Url { url: text.to_owned(), source })?;
    let resolve = |source| LoadError::Resolve { host: url.host.clone(), source };
    let addresses: Vec<_> = (url.host.as_str(), url.port).to_socket_addrs().map_err(resolve)?.collect();
    // As other clients do: where the first does not answer, the next may.
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, RESOLVE_TIMEOUT).is_ok();
    let answering = if addresses.len() > 1 { addresses.iter().find(answers) } else { None };
    let address = answering.or_else(|| addresses.first()).copied();
    let address = address.ok_or_else(|| resolve(io::Error::other("it has no address")))?;
    Ok(Target { url, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(work: Work, clients: u32) -> Load {
        Load::new(work, clients, vec!["rtmp://127.0.0.1/live/s?token=1".into()])
    }

    #[test]
    fn several_publishers_have_numbered_names_in_front_of_the_parameters() {
        let many = load(Work::Publish, 3);
        let url = many.targets().unwrap().remove(0).url;
        let names: Vec<_> = many.indices().map(|index| many.stream(&url, index)).collect();
        assert_eq!(names, ["s1?token=1", "s2?token=1", "s3?token=1"]);
        assert_eq!(load(Work::Publish, 1).stream(&url, 0), "s?token=1");
        assert_eq!(load(Work::Play, 3).stream(&url, 2), "s?token=1");
    }

    #[test]
    fn the_parts_of_a_load_are_the_load() {
        let whole = load(Work::Publish, 11);
        let parts: Vec<_> = (0..3).map(|part| whole.part(part, 3)).collect();
        let mut indices: Vec<_> = parts.iter().flat_map(Load::indices).collect();
        indices.sort_unstable();
        assert_eq!(indices, (0..11).collect::<Vec<_>>());
        assert!((parts.iter().map(|part| part.ramp).sum::<f64>() - whole.ramp).abs() < 1e-9);
    }

    #[test]
    fn a_load_of_nothing_is_refused() {
        assert!(matches!(load(Work::Play, 0).targets(), Err(LoadError::Usage(_))));
        assert!(matches!(Load { ramp: 0.0, ..load(Work::Play, 1) }.targets(), Err(LoadError::Usage(_))));
        assert!(matches!(Load::new(Work::Play, 1, vec![]).targets(), Err(LoadError::Usage(_))));
    }
}
