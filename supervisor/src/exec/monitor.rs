//! The tasks that watch one process: its end, its readiness and heartbeat, its port.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::UnitId;
use cluster::stats::{ProcessStats, StreamStats};
use control::{Answer, AskError, Connection, Reply, Request};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::exec::adopt::Found;
use crate::exec::process::Process;
use crate::machine::health::{Heartbeat, Ladder};
use crate::machine::state::Event;
use crate::reconcile::kernel::{Input, Instance, Report, What};

/// Between two tries of a process that is not ready yet.
const READY_RETRY: Duration = Duration::from_millis(25);
/// How long one try of the control socket may take.
const HELLO_LIMIT: Duration = Duration::from_secs(1);
/// How long an RTMP connect may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Between two RTMP connects, ± 10 %.
const PROBE_PERIOD: Duration = Duration::from_secs(5);
/// The same while failures are counted.
const PROBE_AGAIN: Duration = Duration::from_secs(1);

/// What the tasks tell the supervisor's loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// As it is.
    Input(Input),
    /// What another look at an unknown process gave.
    Found(UnitId, Found),
}

/// One process to watch.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) unit: UnitId,
    pub(crate) instance: Instance,
    pub(crate) process: Arc<Process>,
    pub(crate) control: PathBuf,
    /// What others connect to; an encoder has none.
    pub(crate) address: Option<(String, u16)>,
    pub(crate) messages: mpsc::Sender<Message>,
    /// Asks for a report now.
    pub(crate) refresh: Arc<Notify>,
}

impl Watched {
    /// Starts the tasks; dropping the set ends them. A process that is `adopted` was ready before.
    pub(crate) fn watch(self, adopted: bool) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let ends = self.clone();
        tasks.spawn(async move {
            let exit = ends.process.wait().await;
            ends.tell(What::Event(Event::Exited(exit))).await;
        });
        tasks.spawn(async move {
            let connection = if adopted { None } else { Some(self.until_ready().await) };
            let beats = self.heartbeat(connection);
            let probes = self.probes(adopted);
            tokio::join!(beats, probes);
        });
        tasks
    }

    async fn tell(&self, what: What) {
        let input = Input::Process { unit: self.unit.clone(), instance: self.instance, what };
        // The supervisor's loop is gone only when it ends, and this task with it.
        let _ = self.messages.send(Message::Input(input)).await;
    }

    /// Ready: it says who it is, and takes an RTMP connect on the address that others use.
    async fn until_ready(&self) -> Connection {
        let mut told = None;
        let connection = loop {
            match self.hello().await {
                Ok(connection) => break connection,
                Err(error) => self.not_ready(&mut told, error.to_string()).await,
            }
        };
        if let Some((host, port)) = &self.address {
            while let Err(error) = crate::probe::connect(host, *port, PROBE_LIMIT).await {
                self.not_ready(&mut told, error.to_string()).await;
            }
        }
        self.tell(What::Event(Event::Ready)).await;
        connection
    }

    async fn not_ready(&self, told: &mut Option<String>, why: String) {
        if told.as_ref() != Some(&why) {
            self.tell(What::NotReady(why.clone())).await;
            *told = Some(why);
        }
        tokio::time::sleep(READY_RETRY).await;
    }

    async fn hello(&self) -> Result<Connection, AskError> {
        let mut connection = Connection::open(&self.control)?;
        let (hello, sender) = connection.hello(HELLO_LIMIT).await?;
        if hello.id != self.unit || sender != Some(self.process.identity().pid) {
            return Err(AskError::Unexpected(format!("{} (pid {sender:?}) answers for it", hello.id)));
        }
        Ok(connection)
    }

    /// Asks for a report each second. One request is under way at a time: a process that is slow to answer is not
    /// asked again, and one that never answers is frozen.
    async fn heartbeat(&self, mut connection: Option<Connection>) {
        let mut heartbeat = Heartbeat::default();
        let mut tick = tokio::time::interval(Heartbeat::PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let mut beats = None;
        let mut under_way: Option<Answer> = None;
        loop {
            let packet = async {
                match (&mut connection, &under_way) {
                    (Some(connection), Some(_)) => connection.receive().await,
                    (None, _) | (_, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                // What came in time counts, however late this task gets to see it.
                biased;
                packet = packet => {
                    let Some(answer) = under_way.as_mut() else { continue };
                    match packet.and_then(|packet| answer.add(packet)) {
                        Ok(false) => {}
                        Ok(true) => {
                            if let Some((process, streams)) = under_way.take().and_then(report) {
                                beats = Some(process.beats);
                                let report = Report { at: Instant::now(), process, streams };
                                self.tell(What::Report(report)).await;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(unit = %self.unit, %error, "no report");
                            (connection, under_way) = (None, None);
                        }
                    }
                }
                _ = tick.tick() => {
                    let elapsed = last.elapsed();
                    last = Instant::now();
                    if let Some(why) = heartbeat.handle_sample(elapsed, beats.take()) {
                        self.tell(What::Event(Event::Frozen { why: why.to_owned() })).await;
                    }
                    if connection.is_none() {
                        connection = Connection::open(&self.control).ok();
                    }
                    ask(&mut connection, &mut under_way).await;
                }
                () = self.refresh.notified() => ask(&mut connection, &mut under_way).await,
            }
        }
    }

    async fn probes(&self, at_once: bool) {
        let Some((host, port)) = &self.address else { return };
        if !at_once {
            tokio::time::sleep(PROBE_PERIOD.mul_f64(0.9 + 0.2 * random())).await;
        }
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let result = crate::probe::connect(host, *port, PROBE_LIMIT).await;
            failures = if result.is_ok() { 0 } else { failures + 1 };
            // A supervisor that was stopped meanwhile has measured itself.
            if started.elapsed() < PROBE_LIMIT + Heartbeat::LATE {
                self.tell(What::Probe(result.map(drop).map_err(|error| error.to_string()))).await;
            }
            let period = if (1..Ladder::FALL).contains(&failures) { PROBE_AGAIN } else { PROBE_PERIOD };
            tokio::time::sleep(period.mul_f64(0.9 + 0.2 * random())).await;
        }
    }
}

/// Asks for a report, unless one is under way.
async fn ask(connection: &mut Option<Connection>, under_way: &mut Option<Answer>) {
    if under_way.is_none()
        && let Some(open) = &connection
    {
        match tokio::time::timeout(HELLO_LIMIT, open.send(&Request::Stats, None)).await {
            Ok(Ok(())) => *under_way = Some(Answer::default()),
            Ok(Err(_)) | Err(_) => *connection = None,
        }
    }
}

fn report(answer: Answer) -> Option<(ProcessStats, Vec<StreamStats>)> {
    let (mut process, mut streams) = (None, Vec::new());
    for reply in answer.replies {
        match reply {
            Reply::Process(stats) => process = Some(stats),
            Reply::Stream(stats) => streams.push(stats),
            Reply::Hello(_) | Reply::Done | Reply::Error(_) | Reply::Unknown => {}
        }
    }
    Some((process?, streams))
}

/// In 0..1. Jitter needs no more than that it differs.
pub(crate) fn random() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
