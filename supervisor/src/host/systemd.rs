//! The service manager, where it runs the supervisor: what it is told (sd_notify(3)), and the listeners that it keeps.
//!
//! It keeps a duplicate of each listener under the name of its unit. So a port whose keeper and supervisor are both dead stays
//! open, and who connects waits in its queue until the next supervisor has the listener back. What is closed for good is given
//! up there too, or the port would stay open.

use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use cluster::UnitId;
use sd_notify::NotifyState as State;

/// Between two signs of life.
const SIGN_EVERY: Duration = Duration::from_secs(1);

/// What the service manager puts into the environment of the supervisor, and what is no business of its processes.
pub(crate) const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The service manager of this process. Where there is none, nobody hears what it is told.
#[derive(Clone, Debug, Default)]
pub struct Manager {
    said: Rc<RefCell<Said>>,
}

#[derive(Debug, Default)]
struct Said {
    text: String,
    sign: Option<Instant>,
}

impl Manager {
    /// Whether a service manager has started this process, as one that tells it when it is ready.
    #[must_use]
    pub fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The service is ready for what it is there for.
    pub fn ready(&self) {
        tell(&[State::Ready]);
    }

    /// How the service is, for a person; told where it is new.
    pub fn show(&self, text: &str) {
        let mut said = self.said.borrow_mut();
        if said.text != text {
            text.clone_into(&mut said.text);
            tell(&[State::Status(text)]);
        }
    }

    /// A sign of life, to be given by the loop that does the work: whoever does not go on does not give it.
    pub fn live(&self) {
        let mut said = self.said.borrow_mut();
        if said.sign.is_none_or(|sign| sign.elapsed() >= SIGN_EVERY) {
            said.sign = Some(Instant::now());
            tell(&[State::Watchdog]);
        }
    }

    /// Has it keep a duplicate of a listener.
    pub(crate) fn keep(&self, unit: &UnitId, listener: BorrowedFd<'_>) {
        let state = [State::FdStore, State::FdName(&name_of(unit)), State::Custom("FDPOLL=0")];
        if let Err(error) = sd_notify::notify_with_fds(&state, &[listener]) {
            tracing::warn!(%unit, %error, "the service manager does not keep its listener");
        }
    }

    /// Has it close what it keeps of a unit.
    pub(crate) fn give_up(&self, unit: &UnitId) {
        self.give_up_named(&name_of(unit));
    }

    /// Has it close what it keeps under a name.
    pub fn give_up_named(&self, name: &str) {
        tell(&[State::FdStoreRemove, State::FdName(name)]);
    }
}

/// The name of a unit's listener: it may hold no colon, which an address of IPv6 does.
fn name_of(unit: &UnitId) -> String {
    unit.as_str().replace(':', ";")
}

fn tell(state: &[State<'_>]) {
    // It listens as long as this process is its service.
    let _ = sd_notify::notify(state);
}

/// What a supervisor has of the service manager that runs it.
#[derive(Debug)]
pub struct Service {
    /// It.
    pub manager: Manager,
    /// The listeners that it has kept, each with its name.
    pub kept: Vec<(String, OwnedFd)>,
    /// To be told to stop all processes.
    pub orders: tokio::sync::mpsc::Receiver<Order>,
}

/// What a supervisor within a service is told by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As SIGTERM to a supervisor of its own: stop all processes, or, while it starts, those that it has started.
    Stop,
}
