//! Who asked for something, for a person.

use cluster::events::By;
use nix::unistd::{Uid, User};

/// The user, the process, and who logged in where that is another user; `user` knows names.
pub(crate) fn who(By { pid, uid, login_uid }: By, user: &impl Fn(u32) -> String) -> String {
    let login =
        login_uid.filter(|login| *login != uid).map(|login| format!(", logged in as {}", user(login)));
    format!("{} (pid {pid}{})", user(uid), login.unwrap_or_default())
}

/// The name of a user of this machine.
pub(crate) fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| format!("user {uid}"), |user| user.name)
}
