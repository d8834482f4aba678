//! What the supervisor asks a process that it runs, and what the process answers.
//!
//! The supervisor sends one [`Request`] and reads [`Reply`] packets up to and with the one that [ends](Reply::is_last)
//! the answer; then it may send the next. Both sides may grow: unknown fields are ignored, an unknown request is
//! answered by [`Code::Unsupported`](crate::Code::Unsupported), an unknown packet of an answer is passed over.

use cluster::stats::{ProcessStats, StreamStats};
use cluster::{Role, UnitId, WorkerSpec};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The version of these messages. A change that only adds keeps it; a new last packet of an answer does not.
pub const VERSION: u32 = 1;

/// What the supervisor asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Request {
    /// Who are you? Answered by [`Reply::Hello`].
    Hello {
        /// [`VERSION`] of the asker.
        version: u32,
    },
    /// Answered by one [`Reply::Process`], a [`Reply::Stream`] for each stream, and [`Reply::Done`].
    Stats,
    /// Take this spec from now on: forward targets and limits change, nothing running is dropped. Answered by
    /// [`Reply::Done`], or [`Code::NeedsRestart`](crate::Code::NeedsRestart) when the spec differs in what cannot change.
    Configure {
        /// The whole new spec.
        spec: Box<WorkerSpec>,
    },
    /// Log into the descriptor that comes with this packet. Answered by [`Reply::Done`].
    ReopenLog,
    /// Lend back the RTMP listener: a supervisor that was restarted owns it again and keeps the port open when this
    /// process dies. Answered by [`Reply::Done`] with a duplicate of the listener beside it; the process goes on
    /// accepting. A process without one answers [`Code::Unsupported`](crate::Code::Unsupported).
    Listener,
    /// Somebody removed the files of the control socket and of the lock. Use those that come with this packet in their place:
    /// control socket, its file, lock with the same token. Answered by [`Reply::Done`].
    Replace,
    /// Make place for another worker of this port, which goes on with every connection: of the program, and with the config, that come with
    /// this packet in this order. Answered by [`Reply::Done`]; then the process writes down what it is at, and ends. One that has no
    /// keeper answers [`Code::Unsupported`](crate::Code::Unsupported).
    Renew,
    /// The secret between origin and edges is in the file that comes with this packet: lines, of which the first is used and each is
    /// believed. Nobody is disconnected. Answered by [`Reply::Done`].
    Secret,
    /// Stop: answered by [`Reply::Done`], then the process closes its connections and exits with 0.
    Stop,
    /// A request of a newer supervisor.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What a process answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// First packet of the answer to [`Request::Stats`].
    Process(ProcessStats),
    /// One stream of the answer to [`Request::Stats`].
    Stream(StreamStats),
    /// The request has been carried out, or the answer is complete.
    Done,
    /// The request was not carried out.
    Error(Error),
    /// A packet of a newer process.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Reply {
    /// Whether no further packet belongs to this answer.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self {
            Self::Hello(_) | Self::Done | Self::Error(_) => true,
            Self::Process(_) | Self::Stream(_) | Self::Unknown => false,
        }
    }
}

/// What a keeper says in [`Hello::cause`] beside how a worker died.
pub mod cause {
    /// The worker made place, and the program that it made place for runs.
    pub const RESTART: &str = "restart";
    /// Somebody other than the supervisor had the keeper replace the worker; or the supervisor, which says why.
    pub const REPLACED: &str = "killed by its keeper, which was sent SIGUSR2";
    /// At the end: the keeper went back to the program that it was before.
    pub const WENT_BACK: &str = "the program before goes on";
}

/// Who a process is: enough to prove that it belongs to the supervisor that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the answerer.
    pub version: u32,
    /// Its unit.
    pub id: UnitId,
    /// Its role.
    pub role: Role,
    /// The text of the lock file it was started with, 32 hex digits.
    pub token: String,
    /// The process id, as it sees itself.
    pub pid: u32,
    /// `CARGO_PKG_VERSION` of its binary.
    pub build: String,
    /// So many processes before it have ended on this port, which its keeper has held open; 0 of a process without a keeper.
    #[serde(default)]
    pub generation: u32,
    /// So many of them made place, as they were asked to; the others have died.
    #[serde(default)]
    pub renewed: u32,
    /// How the one before it died, or why it made place; with the words of [`cause`].
    #[serde(default)]
    pub cause: Option<String>,
    /// Why it uses nothing of what those before it have left: it starts cold.
    #[serde(default)]
    pub forgot: Option<String>,
    /// Connections of the one before it that it could not go on with.
    #[serde(default)]
    pub lost: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use cluster::stats::{ForwardState, ForwardStats};
    use cluster::{Target, WorkerOptions};

    fn edge() -> UnitId {
        UnitId::worker(Role::Edge, "127.0.0.6", 1935)
    }

    fn reread<T: Serialize + serde::de::DeserializeOwned>(message: &T) -> T {
        serde_json::from_slice(&serde_json::to_vec(message).unwrap()).unwrap()
    }

    #[test]
    fn every_request_reads_back() {
        let spec = WorkerSpec {
            id: edge(),
            cluster: "live".into(),
            role: Role::Edge,
            host: "127.0.0.6".into(),
            listen: "127.0.0.6:1935".parse().unwrap(),
            address: None,
            options: WorkerOptions::default(),
            sources: vec![[127, 0, 0, 5].into()],
            forward: Vec::new(),
            outbound: Vec::new(),
            drain: cluster::Drain::No,
            secret_file: "/secret".into(),
        };
        let configure = Request::Configure { spec: Box::new(spec) };
        let rest = [
            Request::Stats,
            Request::ReopenLog,
            Request::Listener,
            Request::Renew,
            Request::Secret,
            Request::Stop,
        ];
        for request in rest.into_iter().chain([Request::Hello { version: VERSION }, configure]) {
            assert_eq!(reread(&request), request);
        }
    }

    #[test]
    fn every_reply_reads_back() {
        let hello = Hello {
            version: VERSION,
            id: edge(),
            role: Role::Edge,
            token: "0".repeat(32),
            pid: 42,
            build: "0.1.0".into(),
            generation: 2,
            renewed: 1,
            cause: Some("killed by SIGSEGV".into()),
            forgot: Some("it is of another version".into()),
            lost: 3,
        };
        let forward = ForwardStats {
            target: Target { id: edge(), host: "127.0.0.6".into(), port: 1935, address: None },
            state: ForwardState::Live,
            lag_ms: Some(3),
            sent: 7,
            reconnects: 1,
            last_error: Some("reset".into()),
            waiting_ms: Some(70),
            url: None,
            code: None,
            bytes: 0,
            dropped: 0,
        };
        let stream =
            StreamStats { stream: "live/a".into(), forwards: vec![forward], ..StreamStats::default() };
        let replies = [
            (Reply::Hello(hello), true),
            (Reply::Process(ProcessStats { beats: 5, ..ProcessStats::default() }), false),
            (Reply::Stream(stream), false),
            (Reply::Done, true),
            (Reply::Error(Error::new(Code::NeedsRestart, "why")), true),
        ];
        for (reply, is_last) in replies {
            assert_eq!(reread(&reply), reply);
            assert_eq!(reply.is_last(), is_last, "{reply:?}");
        }
    }

    #[test]
    fn messages_of_another_version_are_read_as_far_as_they_are_known() {
        let request = |text| serde_json::from_str::<Request>(text).unwrap();
        assert_eq!(request(r#"{"type":"drain","seconds":5}"#), Request::Unknown);
        assert_eq!(request(r#"{"type":"stop","gently":true}"#), Request::Stop);
        let reply = |text| serde_json::from_str::<Reply>(text).unwrap();
        assert_eq!(reply(r#"{"type":"hub","load":1}"#), Reply::Unknown);
        assert!(!Reply::Unknown.is_last(), "what follows still belongs to the answer");
        let Reply::Hello(old) = reply(
            r#"{"type":"hello","version":1,"id":"edge-h-1","role":"edge","token":"t","pid":1,"build":"0"}"#,
        ) else {
            panic!("no hello")
        };
        assert_eq!((old.generation, old.renewed, old.cause, old.forgot, old.lost), (0, 0, None, None, 0));
        let old = ProcessStats { beats: 9, ..ProcessStats::default() };
        assert_eq!(reply(r#"{"type":"process","beats":9}"#), Reply::Process(old));
        let old = StreamStats { stream: "live/a".into(), ..StreamStats::default() };
        assert_eq!(reply(r#"{"type":"stream","stream":"live/a"}"#), Reply::Stream(old));
        let unknown = Reply::Error(Error::new(Code::Unknown, "m"));
        assert_eq!(reply(r#"{"type":"error","code":"no-such-code","message":"m"}"#), unknown);
        assert_eq!(reply(r#"{"type":"error","message":"m"}"#), unknown);
    }
}
