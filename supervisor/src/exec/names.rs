//! What the names of hosts stand for now: players look them up, nothing here depends on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was found is used this long: the ports of a host share a look-up.
const FRESH: Duration = Duration::from_secs(3);
/// How long a look-up may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// The addresses of a name, or why there are none.
type Addresses = Result<Vec<IpAddr>, String>;
type Entry = Arc<tokio::sync::Mutex<Option<(Instant, Addresses)>>>;

/// What was found of each name; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<BTreeMap<String, Entry>>>);

impl Names {
    /// The addresses that `host` stands for now.
    pub(crate) async fn lookup(&self, host: &str) -> Addresses {
        let entry = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(host.to_ascii_lowercase()).or_default())
        };
        let mut entry = entry.lock().await;
        if let Some((at, found)) = &*entry
            && at.elapsed() < FRESH
        {
            return found.clone();
        }
        let found = match tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host((host, 0))).await {
            Ok(Ok(found)) => Ok(found.map(|address| address.ip().to_canonical()).collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", LOOKUP_LIMIT.as_secs())),
        };
        *entry = Some((Instant::now(), found.clone()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_has_addresses_or_a_reason_and_ports_of_a_host_share_what_was_found() {
        let names = Names::default();
        let found = names.lookup("localhost").await.unwrap();
        assert!(found.iter().any(IpAddr::is_loopback), "{found:?}");
        let shared: Vec<IpAddr> = vec![[192, 0, 2, 1].into()];
        let entry = Arc::clone(&names.0.lock().unwrap()["localhost"]);
        *entry.lock().await = Some((Instant::now(), Ok(shared.clone())));
        assert_eq!(names.clone().lookup("LocalHost").await, Ok(shared));
        assert!(names.lookup("no-such-host.invalid").await.is_err());
    }
}
