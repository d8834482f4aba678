//! Holds a process as a debugger does.

use nix::libc;

/// A process that a debugger has, this thread.
pub struct Debugger(libc::pid_t);

#[expect(unsafe_code, reason = "ptrace(2) has no safe form, and reads and writes no memory of ours here")]
impl Debugger {
    /// None where the system forbids that.
    #[track_caller]
    pub fn of(pid: u32) -> Option<Self> {
        let debugger = Self(pid.try_into().unwrap());
        debugger.request(libc::PTRACE_SEIZE)?;
        debugger.request(libc::PTRACE_INTERRUPT).unwrap();
        // Until it has stopped.
        debugger.wait();
        Some(debugger)
    }

    fn request(&self, request: std::ffi::c_uint) -> Option<()> {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: none of these requests uses an address.
        (unsafe { libc::ptrace(request, self.0, null, null) } == 0).then_some(())
    }

    fn wait(&self) {
        // SAFETY: no status is asked for.
        assert_eq!(unsafe { libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL) }, self.0);
    }

    /// The process goes on.
    pub fn let_go(self) {
        self.request(libc::PTRACE_DETACH).unwrap();
    }

    /// Whoever started it hears of its end only behind its debugger.
    pub fn await_end(self) {
        self.wait();
    }
}
