//! One end of a session: what comes is frames in a queue, what goes is written in order, with pings between. It is over when the input
//! ends, when what comes are no frames, or when nothing has come for [`SILENCE`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::frame::{Frame, Reader};

/// Each end says so often that it is there.
const PING: Duration = Duration::from_secs(3);
/// After so long without a byte the other end is gone: four pings are lost by then.
pub const SILENCE: Duration = Duration::from_secs(12);
/// Frames that wait on each way; then the pipe holds the sender up.
const QUEUE: usize = 8;
/// Bytes read at once.
const READ: usize = 64 << 10;

/// How a session ended, for a person.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended(Arc<Mutex<Option<String>>>);

impl Ended {
    pub(crate) fn say(&self, why: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why.into());
    }

    pub(crate) fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The frames of one end. The queues close when the session is over.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) incoming: mpsc::Receiver<Frame>,
    pub(crate) outgoing: mpsc::Sender<Frame>,
    pub(crate) ended: Ended,
    /// Dropped with it, the two tasks end.
    pub(crate) tasks: JoinSet<()>,
}

impl Wire {
    /// Reads and writes from now on; `reader` has what was read before.
    pub(crate) fn new(
        input: impl AsyncRead + Unpin + Send + 'static,
        output: impl AsyncWrite + Unpin + Send + 'static,
        reader: Reader,
    ) -> Self {
        let (sender, incoming) = mpsc::channel(QUEUE);
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let ended = Ended::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(read(input, reader, sender, ended.clone()));
        tasks.spawn(write(output, queue, ended.clone()));
        Self { incoming, outgoing, ended, tasks }
    }
}

async fn read(
    mut input: impl AsyncRead + Unpin,
    mut reader: Reader,
    frames: mpsc::Sender<Frame>,
    ended: Ended,
) {
    let mut buffer = vec![0; READ];
    loop {
        loop {
            match reader.next_frame() {
                Ok(Some(Frame::Ping)) => {}
                // While nobody takes it, nothing is read, and no silence is counted.
                Ok(Some(frame)) => {
                    if frames.send(frame).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => return ended.say(error.to_string()),
            }
        }
        match timeout(SILENCE, input.read(&mut buffer)).await {
            Ok(Ok(0)) => return ended.say("the session has ended"),
            Ok(Ok(length)) => reader.push(buffer.get(..length).unwrap_or_default()),
            Ok(Err(error)) => return ended.say(error.to_string()),
            Err(_) => return ended.say(format!("nothing has come from there for {} s", SILENCE.as_secs())),
        }
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Frame>, ended: Ended) {
    let mut ping = interval(PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => frame,
                // The other end reads that this one has sent all.
                None => return drop(output.shutdown().await),
            },
            _ = ping.tick() => Frame::Ping,
        };
        let written = async {
            output.write_all(&frame.encode()).await?;
            output.flush().await
        };
        if let Err(error) = written.await {
            return ended.say(error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_that_says_nothing_is_gone_and_one_that_pings_is_not() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let (input, output) = tokio::io::split(near);
        let mut wire = Wire::new(input, output, Reader::without_magic());
        for _ in 0..10 {
            far.write_all(&Frame::Ping.encode()).await.unwrap();
            assert!(
                timeout(SILENCE * 2 / 3, wire.incoming.recv()).await.is_err(),
                "a ping is no frame to take"
            );
        }
        let begin = tokio::time::Instant::now();
        assert_eq!(wire.incoming.recv().await, None);
        assert!(begin.elapsed() <= SILENCE);
        assert!(wire.ended.why().unwrap().contains("nothing has come"));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_go_out_while_nobody_takes_what_comes() {
        let (near, far) = tokio::io::duplex(1 << 10);
        let (input, output) = tokio::io::split(near);
        let _idle = Wire::new(input, output, Reader::without_magic());
        let (input, mut output) = tokio::io::split(far);
        tokio::spawn(
            async move { while output.write_all(&Frame::Data(vec![0; 99]).encode()).await.is_ok() {} },
        );
        let mut reader = Reader::without_magic();
        let (mut input, mut pings, mut buffer) = (input, 0, [0; 64]);
        while pings < 9 {
            let length = timeout(SILENCE, input.read(&mut buffer)).await.unwrap().unwrap();
            reader.push(&buffer[..length]);
            while let Some(frame) = reader.next_frame().unwrap() {
                assert_eq!(frame, Frame::Ping);
                pings += 1;
            }
        }
    }
}
