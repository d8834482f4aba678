//! Another secret between origin and edges, for processes that run and for those that start later.

use std::os::fd::AsFd as _;

use control::start::Secret;
use control::{Code, Error, Request, fds};

use super::{CONFIGURE_LIMIT, Processes};
use crate::api::Reply;

impl Processes {
    /// Replaces it: in its file, and in each process that has it. Nobody is disconnected.
    pub(crate) fn replace_secret(&mut self, secret: &Secret, reply: Reply) {
        if let Err(error) = self.dirs.put_secret(secret) {
            return reply.finish(Err(Error::new(Code::Failed, error)));
        }
        secret.as_str().clone_into(&mut self.remembered.secret);
        let with_secret = |name: &str| name != cluster::Role::Encoder.as_str();
        let units = self.held.iter().filter(|(unit, held)| held.live.is_some() && with_secret(unit.as_str()));
        let reaches: Vec<_> = units.map(|(unit, held)| (unit.clone(), held.reach())).collect();
        let file = fds::in_memory(fds::SECRET, secret.as_str().as_bytes());
        self.helpers.spawn(async move {
            let file = match file {
                Ok(file) => file,
                Err(error) => return reply.finish(Err(Error::new(Code::Failed, error))),
            };
            let mut failed = Vec::new();
            for (unit, reach) in reaches {
                if let Err(error) = reach.ask_with(&Request::Secret, &[file.as_fd()], CONFIGURE_LIMIT).await {
                    failed.push(format!("{unit} does not take the secret: {error}"));
                }
            }
            let why = failed.join("\n  ");
            reply.finish(if failed.is_empty() { Ok(()) } else { Err(Error::new(Code::Failed, why)) });
        });
    }
}
