//! Targets beyond the edges: servers of others. Where a stream goes, by what address, with what key.
//!
//! Nothing of the cluster reaches them: no proof, no name of a clock, no parameter of an encoder. A key is read at each connect and is in no
//! file, log or report of ours; what a server answers is told only where it does not repeat the key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cluster::forward::{Key, Place};
use cluster::{Delays, Outbound, Target, UnitId, WorkerSpec};
use rtmp::client::{self, Mode};
use rtmp::server::StreamKey;
use rtmp::url::Url;
use rtmp_io::{Client, Limit, Route};
use rustix::fs::{Mode as Bits, OFlags};
use tokio::sync::Semaphore;

/// Look-up of the name to Publish.Start at most, as for an edge.
const OUT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First delay between attempts: a server of others is not asked as often as an edge.
const OUT_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest delay.
const OUT_RETRY_LONGEST: Duration = Duration::from_secs(15);
/// Longest key, bytes.
const KEY_MAX: usize = 1024;
/// So many bytes of a key that are repeated, bytes, give it away.
const KEY_SHOWN: usize = 4;
/// Look-ups of one name at once: each holds a thread until the name service answers, however long that takes.
const LOOKUPS_OF_ONE: usize = 2;

/// Where a stream is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To an edge of the cluster.
    Edge(Target),
    /// Beyond the edges.
    Out(Rc<Outbound>),
}

impl Destination {
    /// What it is called in records: of a target beyond the edges with its address, so that no connection goes on to another one.
    pub(crate) fn record_id(&self) -> UnitId {
        match self {
            Self::Edge(target) => target.id.clone(),
            Self::Out(outbound) => UnitId::outbound_at(outbound),
        }
    }

    /// What it is called in the log and in reports.
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Edge(target) => target.clone(),
            Self::Out(outbound) => Target {
                id: UnitId::outbound(outbound),
                host: outbound.to.host().to_owned(),
                port: outbound.to.port(),
                address: None,
            },
        }
    }

    /// Delays between attempts.
    pub(super) fn delays(&self, (first, longest): (Duration, Duration)) -> Delays {
        match self {
            Self::Edge(_) => Delays::new(first, longest),
            Self::Out(_) => Delays::new(OUT_RETRY_FIRST, OUT_RETRY_LONGEST),
        }
    }
}

/// All to which the stream `key` is forwarded.
pub(super) fn destinations(spec: &WorkerSpec, key: &StreamKey) -> Vec<Destination> {
    let edges = spec.forward.iter().cloned().map(Destination::Edge);
    let beyond = spec.outbound.iter().filter(|it| it.takes(key.as_str()));
    edges.chain(beyond.map(|it| Destination::Out(Rc::new(it.clone())))).collect()
}

/// How many these are.
pub(super) fn count(spec: &WorkerSpec, key: &StreamKey) -> usize {
    spec.forward.len() + spec.outbound.iter().filter(|it| it.takes(key.as_str())).count()
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the key {path} cannot be read: {why}; put it there, for the user of srsctl alone (chmod 600)")]
    File { path: String, why: String },
    #[error("the key {path} can be read by everybody: chmod 600 {path}")]
    Open { path: String },
    #[error(
        "there is no variable {0} in the environment that the cluster was brought up in; use `key: {{ file: PATH }}`, or bring it up anew with it"
    )]
    Variable(String),
    #[error(
        "the key in {0} is no line of text of at most {KEY_MAX} bytes without white space; write the key alone there"
    )]
    Text(String),
}

/// What stands for `{key}`, read now without waiting for anybody but the disk.
pub(crate) fn key_of(outbound: &Outbound) -> Result<Option<Rc<str>>, KeyError> {
    Ok(outbound.key.as_ref().map(read).transpose()?.map(Rc::from))
}

/// The same, beside the loop.
async fn key_beside(outbound: &Outbound) -> Result<Option<Rc<str>>, KeyError> {
    let Some(key) = outbound.key.clone() else { return Ok(None) };
    let (path, read) = (source(&key), tokio::task::spawn_blocking(move || read(&key)));
    let lost = |error: tokio::task::JoinError| KeyError::File { path, why: error.to_string() };
    Ok(Some(read.await.map_err(lost)??.into()))
}

fn source(key: &Key) -> String {
    match key {
        Key::File(path) => path.display().to_string(),
        Key::Env(name) => name.clone(),
    }
}

fn read(key: &Key) -> Result<String, KeyError> {
    let text = match key {
        Key::Env(name) => std::env::var(name).map_err(|_| KeyError::Variable(name.clone()))?,
        Key::File(path) => read_file(path)?,
    };
    let text = text.trim();
    let is_sound =
        (1..=KEY_MAX).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if is_sound { Ok(text.to_owned()) } else { Err(KeyError::Text(source(key))) }
}

fn read_file(path: &Path) -> Result<String, KeyError> {
    let shown = || path.display().to_string();
    let failed = |error: std::io::Error| KeyError::File { path: shown(), why: error.to_string() };
    // Whatever it is, opening it waits for nobody.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Bits::empty()).map_err(|error| failed(error.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(KeyError::File { path: shown(), why: "it is no file".to_owned() });
    }
    if stat.st_mode & 0o007 != 0 {
        return Err(KeyError::Open { path: shown() });
    }
    let mut text = String::new();
    let most = KEY_MAX as u64 + 64;
    std::fs::File::from(file).take(most).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// To publish a stream at `outbound`.
pub(crate) fn request(stream: &StreamKey, outbound: &Outbound, key: Option<&str>) -> client::Config {
    let Place { host, port, app, stream } =
        outbound.to.fill(stream.app(), stream.name(), key.unwrap_or_default());
    client::Config::new(Mode::Publish, Url { host, port, app, stream })
}

/// Look-ups that are under way, by name.
#[derive(Default)]
pub(crate) struct Lookups(RefCell<HashMap<String, Arc<Semaphore>>>);

impl Lookups {
    fn of(&self, host: &str) -> Arc<Semaphore> {
        let mut all = self.0.borrow_mut();
        // Those that nobody holds are as good as new ones.
        all.retain(|_, one| Arc::strong_count(one) > 1);
        Arc::clone(all.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS_OF_ONE))))
    }
}

/// How such a server is reached, kept from one connection to the next.
#[derive(Default)]
pub(super) struct Way {
    /// What its name stood for when it was found last.
    known: Vec<IpAddr>,
    /// Attempts so far: each takes the next address, since one may lead nowhere.
    attempts: usize,
}

/// Why there is no connection to such a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Connection(#[from] rtmp_io::Error),
}

impl Way {
    /// Publishes `stream` at `outbound`; `use_key` gets the key before it is used.
    pub(super) async fn open(
        &mut self,
        lookups: &Lookups,
        (stream, outbound): (&StreamKey, &Outbound),
        use_key: impl FnOnce(Option<Rc<str>>),
    ) -> Result<Client, OpenError> {
        let limit = Limit::new(OUT_CONNECT_TIMEOUT);
        let key = match tokio::time::timeout(OUT_CONNECT_TIMEOUT, key_beside(outbound)).await {
            Ok(key) => key?,
            Err(_) => {
                let path = outbound.key.as_ref().map(source).unwrap_or_default();
                return Err(KeyError::File { path, why: "the disk does not answer".to_owned() }.into());
            }
        };
        let request = request(stream, outbound, key.as_deref());
        use_key(key);
        let to = self.address(lookups, outbound.to.host(), outbound.to.port()).await?;
        self.attempts = self.attempts.wrapping_add(1);
        // Its own address may be one that leads nowhere else, such as loopback.
        Ok(Client::open(request, &mut Route::new(None, Some(to)), limit, |_| {}).await?)
    }

    /// Where the next attempt goes. While the name service does not answer, what it said last is used.
    async fn address(&mut self, lookups: &Lookups, host: &str, port: u16) -> Result<IpAddr, rtmp_io::Error> {
        if let Ok(address) = host.parse() {
            return Ok(address);
        }
        match tokio::time::timeout(OUT_CONNECT_TIMEOUT, lookup(lookups, host, port)).await {
            Ok(Ok(found)) => self.known = found,
            Ok(Err(_)) | Err(_) if !self.known.is_empty() => {}
            Ok(Err(source)) => return Err(rtmp_io::Error::Lookup { host: host.to_owned(), source }),
            Err(_) => {
                return Err(rtmp_io::Error::TimedOut {
                    step: rtmp_io::Step::Lookup,
                    limit: OUT_CONNECT_TIMEOUT,
                });
            }
        }
        let next = self.attempts.checked_rem(self.known.len()).and_then(|index| self.known.get(index));
        next.copied().ok_or(rtmp_io::Error::NoAddress)
    }
}

async fn lookup(lookups: &Lookups, host: &str, port: u16) -> std::io::Result<Vec<IpAddr>> {
    let permit = lookups.of(host).acquire_owned().await.map_err(std::io::Error::other)?;
    let name = host.to_owned();
    let find = move || {
        // Held for as long as the name service takes, not for as long as somebody waits.
        let _permit = permit;
        (name, port).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>)
    };
    let found = tokio::task::spawn_blocking(find).await.map_err(std::io::Error::other)??;
    Ok(found.into_iter().map(|address| address.ip()).collect())
}

/// What may be told of an error, and the RTMP status if it is a refusal: not a piece of the key, which servers like to repeat.
pub(super) fn told(error: &rtmp_io::Error, key: Option<&str>) -> (String, Option<String>) {
    let rtmp_io::Error::Rtmp(client::Error::Rejected { code, description }) = error else {
        // None of its words.
        return (error.to_string(), None);
    };
    let refused = |code: &str| format!("the server refused: {code} (in words that have the key in them)");
    let (code, is_code_shown) = (code.as_str(), !code.is_empty() && !names(code, key));
    let text = match is_code_shown {
        true if names(description, key) => refused(code),
        false if names(code, key) || names(description, key) => refused("no status"),
        true | false => error.to_string(),
    };
    (text, is_code_shown.then(|| code.to_owned()))
}

/// Whether a piece of the key stands in `text`.
fn names(text: &str, key: Option<&str>) -> bool {
    let Some(key) = key else { return false };
    let (text, key) = (text.as_bytes(), key.as_bytes());
    let length = KEY_SHOWN.min(key.len());
    length > 0 && key.windows(length).any(|piece| text.windows(length).any(|it| it == piece))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn no_piece_of_a_key_is_told() {
        const DENIED: &str = "NetStream.Publish.Denied";
        let key = Some("live_1234?x=abcd");
        let refused = |code: &str, description: &str, key| {
            let (code, description) = (code.to_owned(), description.to_owned());
            told(&rtmp_io::Error::Rtmp(client::Error::Rejected { code, description }), key)
        };
        let plain = (format!("the server refused: {DENIED} (no)"), Some(DENIED.to_owned()));
        assert_eq!(refused(DENIED, "no", key), plain);
        for text in ["no stream live_1234 here", "cut in live_1", "abcd"] {
            let (told, code) = refused(DENIED, text, key);
            assert_eq!(
                told,
                format!("the server refused: {DENIED} (in words that have the key in them)"),
                "{text}"
            );
            assert_eq!(code.as_deref(), Some(DENIED));
        }
        assert!(refused(DENIED, "live_1234", None).0.contains("live_1234"));
        for code in ["live_1234", ""] {
            let (told, code) = refused(code, "live_1234", key);
            assert!(!told.contains("live"), "{told}");
            assert_eq!(code, None);
        }
    }

    fn outbound(name: &str, to: &str) -> Outbound {
        Outbound {
            name: name.to_owned(),
            to: to.to_owned().try_into().unwrap(),
            streams: vec!["live/*".to_owned().try_into().unwrap()],
            except: Vec::new(),
            key: None,
        }
    }

    #[test]
    fn a_stranger_is_asked_for_a_stream_and_told_nothing_of_the_cluster() {
        let stream = StreamKey::parse("live", "a?token=encoder").unwrap();
        let config = request(&stream, &outbound("x", "rtmp://h:1936/to/{app}-{stream}?k={key}"), Some("abc"));
        assert!(config.auth.is_none());
        let Url { host, port, app, stream } = config.url;
        assert_eq!((&*host, port, &*app, &*stream), ("h", 1936, "to", "live-a?k=abc"));
    }

    #[test]
    fn a_stream_goes_to_the_edges_and_to_those_beyond_that_take_it_and_records_tell_addresses_apart() {
        let outbounds = vec![outbound("x", "rtmp://h/a/{stream}"), outbound("x", "rtmp://h/b/{stream}")];
        let spec = WorkerSpec { outbound: outbounds, ..crate::testing::spec(cluster::Role::Origin) };
        let all = destinations(&spec, &StreamKey::parse("live", "a").unwrap());
        assert_eq!(all.len(), count(&spec, &StreamKey::parse("live", "a").unwrap()));
        let ids: Vec<String> = all.iter().map(|it| it.record_id().to_string()).collect();
        assert_eq!(ids, ["out:x rtmp://h/a/{stream}", "out:x rtmp://h/b/{stream}"]);
        assert!(all.iter().all(|it| it.target().id.as_str() == "out:x"));
        assert_eq!(count(&spec, &StreamKey::parse("other", "a").unwrap()), 0);
    }

    #[test]
    fn of_one_name_few_look_ups_are_under_way_and_each_name_has_its_own() {
        let lookups = Lookups::default();
        let (one, other) = (lookups.of("a"), lookups.of("b"));
        let held: Vec<_> = std::iter::from_fn(|| Arc::clone(&one).try_acquire_owned().ok()).collect();
        assert_eq!(held.len(), LOOKUPS_OF_ONE);
        assert!(lookups.of("a").try_acquire().is_err() && other.try_acquire().is_ok());
        drop((held, one));
        assert!(lookups.of("a").try_acquire().is_ok());
    }

    #[test]
    fn a_key_is_one_word_in_a_file_that_not_everybody_reads() {
        let path = std::env::temp_dir().join(format!("srsctl-key-{}", std::process::id()));
        let read = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read(&Key::File(path.clone())).map_err(|error| error.to_string())
        };
        assert_eq!(read(" abc?x=1\n", 0o600).as_deref(), Ok("abc?x=1"));
        assert!(read("abc", 0o604).unwrap_err().contains("chmod 600"));
        for text in ["", "\n", "a b", "a\nb", &"a".repeat(KEY_MAX + 1)] {
            assert!(read(text, 0o600).unwrap_err().contains("no line of text"), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        let missing = super::read(&Key::File(path.clone())).unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
        let folder = super::read(&Key::File(std::env::temp_dir())).unwrap_err().to_string();
        assert!(folder.contains("it is no file"), "{folder}");
        let variable = super::read(&Key::Env("SRSCTL_NO_SUCH_KEY".into())).unwrap_err().to_string();
        assert!(variable.contains("no variable SRSCTL_NO_SUCH_KEY"), "{variable}");
    }
}
