//! What is seen of a keeper. Pure.

/// How a keeper is found, which does nothing but to wait for its worker's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// As it should be.
    #[default]
    Waits,
    /// It was stopped, and was sent SIGCONT.
    Woken,
    /// It was, and is again.
    Stopped,
    /// A debugger holds it.
    Traced,
}

impl Keeper {
    /// Takes one look in; each that finds it stopped wakes it.
    pub(crate) fn next(self, found: Option<Halt>) -> Self {
        match (found, self) {
            (None, _) => Self::Waits,
            (Some(Halt::Stopped), Self::Waits | Self::Traced) => Self::Woken,
            (Some(Halt::Stopped), Self::Woken | Self::Stopped) => Self::Stopped,
            (Some(Halt::Traced), _) => Self::Traced,
        }
    }
}

/// Why a process that lives does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// By SIGSTOP.
    Stopped,
    /// By a debugger.
    Traced,
}
