//! What a panic costs: the connection it met, and nothing else.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

/// A bug that one connection met.
#[derive(Debug, thiserror::Error)]
#[error("a bug was met: {0}")]
pub(crate) struct Panic(String);

impl Panic {
    fn new(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Self(text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default())
    }
}

/// Runs `work`. What it leaves half done belongs to one connection, which the caller ends.
pub(crate) fn contain<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panic::new(&*payload))
}

/// The same for a future, which is dropped after a panic.
pub(crate) async fn contain_future<F: Future>(work: F) -> Result<F::Output, Panic> {
    let mut work = pin!(work);
    poll_fn(|cx| match contain(|| work.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_what_was_wrong() {
        assert_eq!(contain(|| 7).unwrap(), 7);
        assert_eq!(contain(|| panic!("odd")).unwrap_err().to_string(), "a bug was met: odd");
        let late = async {
            tokio::task::yield_now().await;
            panic!("even {}", 2)
        };
        assert_eq!(contain_future(late).await.unwrap_err().to_string(), "a bug was met: even 2");
    }
}
