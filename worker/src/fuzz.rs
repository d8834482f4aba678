//! Fuzz bodies: any bytes may come in, none may panic, and what a body asserts must hold for all.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream as Socket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use cluster::{Role, Target, UnitId, WorkerSpec};
use rtmp::client::Session;
use rustix::net::sockopt::socket_cookie;
use serde::{Deserialize, Serialize};
use shm::Memory;
use stream::State;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::conn::machine::Machine;
use crate::conn::record::ConnRecord;
use crate::egress::forward::LinkRecord;
use crate::hub::Hub;
use crate::keeping::{Keeping, PortRecord, kind};
use crate::recovery::{self, Legacy, Opened};
use crate::testing::spec;

/// Bytes of the memory of one port.
pub(crate) const MEMORY: u64 = 4 << 20;
pub(crate) const PAGE: usize = 4096;
/// What workers of this program leave.
const IMAGE: &[u8] = include_bytes!("../tests/images/layout-1-records-1.bin");

/// The data are damages of the records that a worker has left of its port, connections, streams, players and forwards: which record, where,
/// how, and with what. Another worker goes on with them: what cannot be right costs the connections that it is of, and nothing else.
pub fn port_records(data: &[u8]) {
    let Some((which, damages)) = data.split_first() else { return };
    let image: Image = postcard::from_bytes(IMAGE).expect("it was made by this program");
    let (origin, edge) = specs(1);
    let (spec, left) = if which % 2 == 0 { (origin, image.origin) } else { (edge, image.edge) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system has what that takes");
    LocalSet::new().block_on(&runtime, go_on(spec, &left, damages));
}

async fn go_on(spec: WorkerSpec, left: &Left, damages: &[u8]) {
    let file = memory(left);
    let Opened { store, legacy, .. } = recovery::open(Some(file.as_fd()), false);
    let Some(mut legacy) = legacy else { panic!("the memory itself is whole") };
    let objects = legacy.objects();
    let conns = objects.iter().filter(|object| object.kind == kind::CONN).count();
    for damage in damages.chunks_exact(5) {
        let [which, high, low, how, with] = *damage else { continue };
        let count = objects.len();
        let Some(object) = objects.get_mut(usize::from(which) % count) else { continue };
        let place = usize::from(u16::from_be_bytes([high, low])) % (object.bytes.len() + 1);
        match how % 4 {
            0 => object.bytes.insert(place, with),
            1 if place < object.bytes.len() => drop(object.bytes.remove(place)),
            2 => object.bytes.truncate(place),
            _ => object.bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte = with),
        }
    }
    let (mut open, mut others): (Vec<OwnedFd>, Vec<Socket>) = (Vec::new(), Vec::new());
    adapt(&mut legacy, left.age, |number, of| {
        let counted = |number| left.counted.iter().find(|it| it.0 == number).map(|it| (it.1, it.2));
        // Of a forward, the end that has connected.
        let (own, other) = match (of, counted(number), counted(0)) {
            (kind::LINK, _, Some((written, read))) => {
                let (accepted, own) = connection((read, written));
                (own, accepted)
            }
            (_, counted, _) => connection(counted.unwrap_or_default()),
        };
        own.set_nonblocking(true).expect("it is a socket");
        let known = (own.as_raw_fd(), socket_cookie(&own).expect("it is a socket"));
        open.push(own.into());
        others.push(other);
        known
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    legacy.find_sockets(open, Some(listener.as_fd()));
    let port = legacy.port();
    let hub = Hub::with(spec, vec![7; 32], &Rc::new(Keeping::new(store, None)), port);
    let (servings, lost) = legacy.take(&hub);
    assert!(servings.len() + lost <= conns, "{} go on and {lost} are lost of {conns}", servings.len());
    assert_eq!(hub.conns(), servings.len());
    for serving in servings {
        // As far as it goes without waiting.
        let _ = timeout(Duration::ZERO, crate::conn::serve(serving)).await;
    }
    hub.tick();
    assert_eq!(hub.conns(), 0, "each has given its place back");
}

/// What two workers have left, and what those on the other side had by then.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) origin: Left,
    pub(crate) edge: Left,
    /// All that the player was sent.
    pub(crate) heard: Vec<u8>,
    /// What the encoder has not sent yet of the frame that is under way.
    pub(crate) rest: Vec<u8>,
}

/// What one worker has left.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Left {
    /// The pages that are not empty.
    pub(crate) pages: Vec<(u64, Vec<u8>)>,
    /// What the clock of the port had reached.
    pub(crate) age: Duration,
    /// What the kernel has counted of each connection, by the number of its record: written, and read.
    pub(crate) counted: Vec<(u64, u64, u64)>,
}

/// An origin, and the edge that it forwards to.
pub(crate) fn specs(edge: u16) -> (WorkerSpec, WorkerSpec) {
    let id = UnitId::worker(Role::Edge, "127.0.0.1", 1935);
    let target = Target { id, host: "127.0.0.1".to_owned(), port: edge, address: None };
    (WorkerSpec { forward: vec![target], ..spec(Role::Origin) }, spec(Role::Edge))
}

/// The memory of a port that has left this.
pub(crate) fn memory(left: &Left) -> OwnedFd {
    let file = Memory::file("image", MEMORY).expect("the system has memory");
    for (page, bytes) in &left.pages {
        rustix::io::pwrite(&file, bytes, page * PAGE as u64).expect("it is as large");
    }
    file
}

/// A connection of which the kernel has counted so much at the end that has accepted it: that end, and the other.
pub(crate) fn connection((written, read): (u64, u64)) -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    let mut other = Socket::connect(address).expect("it listens");
    let mut accepted = listener.accept().expect("one has connected").0;
    fn pass(from: &mut Socket, to: &mut Socket, count: u64) {
        let mut left = usize::try_from(count).unwrap_or(0);
        while left > 0 {
            let piece = vec![0; left.min(8 * 1024)];
            from.write_all(&piece).expect("it is open");
            to.read_exact(&mut vec![0; piece.len()]).expect("it is open");
            left -= piece.len();
        }
    }
    pass(&mut accepted, &mut other, written);
    pass(&mut other, &mut accepted, read);
    (accepted, other)
}

/// Gives the records that can be read the sockets of this process, and the clock the time at which the image was made.
pub(crate) fn adapt(legacy: &mut Legacy, age: Duration, mut socket_of: impl FnMut(u64, u32) -> (i32, u64)) {
    for object in legacy.objects() {
        let number = object.id.number();
        let bytes = match object.kind {
            kind::CONN => {
                let Ok(mut record) = postcard::from_bytes::<ConnRecord<Machine>>(&object.bytes) else {
                    continue;
                };
                (record.fd, record.cookie) = socket_of(number, kind::CONN);
                postcard::to_allocvec(&record)
            }
            kind::LINK => {
                let record = postcard::from_bytes::<LinkRecord<Session, State>>(&object.bytes);
                let Ok(mut record) = record else { continue };
                (record.fd, record.cookie) = socket_of(number, kind::LINK);
                postcard::to_allocvec(&record)
            }
            kind::PORT => {
                let Ok(record) = postcard::from_bytes::<PortRecord>(&object.bytes) else { continue };
                postcard::to_allocvec(&PortRecord::new(age, record.counters))
            }
            _ => continue,
        };
        object.bytes = bytes.expect("what was read is written");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn whatever_becomes_of_records_costs_the_connections_that_they_are_of(
            data in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            super::port_records(&data);
        }
    }

    #[test]
    fn records_that_are_whole_cost_none() {
        super::port_records(&[0]);
        super::port_records(&[1]);
    }
}
