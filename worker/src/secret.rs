//! The secret between origin and edges, a line. While it is replaced there are several: the first is used, and each is believed, so that
//! ports may learn of it one after the other.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use control::RunError;

/// Shortest one, bytes.
const SHORTEST: usize = 32;

/// What a port has of it.
pub(crate) struct Secrets(RefCell<Rc<[u8]>>);

impl Secrets {
    /// As [`read`] gives it.
    pub(crate) fn new(text: Vec<u8>) -> Self {
        Self(RefCell::new(text.into()))
    }

    /// All, a line each.
    pub(crate) fn all(&self) -> Rc<[u8]> {
        Rc::clone(&self.0.borrow())
    }

    /// The one that is used.
    pub(crate) fn used(&self) -> Vec<u8> {
        each(&self.0.borrow()).next().unwrap_or_default().to_vec()
    }

    /// From now on.
    pub(crate) fn set(&self, text: Vec<u8>) {
        self.0.replace(text.into());
    }
}

/// Each line of `all`.
pub(crate) fn each(all: &[u8]) -> impl Iterator<Item = &[u8]> {
    all.split(|byte| *byte == b'\n')
}

/// Reads a file of it.
///
/// # Errors
/// When it cannot be read, or has none.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, RunError> {
    use std::io::ErrorKind;
    let text = std::fs::read_to_string(file).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::InvalidData => {
            RunError::Config(format!("cannot read the secret {}: {e}", file.display()))
        }
        // Too many open files, no memory, a disk that fails: it may work the next time.
        _ => {
            let source = std::io::Error::new(e.kind(), format!("{}: {e}", file.display()));
            RunError::System { what: "reading the secret", source }
        }
    })?;
    sound(&text).ok_or_else(|| RunError::Config(format!("the secret {} is too short", file.display())))
}

/// What a file of it says, unless one in it is too short.
fn sound(text: &str) -> Option<Vec<u8>> {
    let all = text.trim().as_bytes();
    each(all).all(|secret| secret.len() >= SHORTEST).then(|| all.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_used_and_each_is_believed() {
        let (old, new) = ("a".repeat(64), "b".repeat(64));
        let secrets = Secrets::new(sound(&format!("{new}\n{old}\n")).unwrap());
        assert_eq!(secrets.used(), new.as_bytes());
        assert_eq!(each(&secrets.all()).collect::<Vec<_>>(), [new.as_bytes(), old.as_bytes()]);
        secrets.set(old.clone().into_bytes());
        assert_eq!(secrets.used(), old.as_bytes());
        assert_eq!(sound(&format!("{new}\nshort\n")), None);
    }
}
