//! A bug in the handling of one request ends that request and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// What the future comes to; nothing when it panics, which is logged where panics are. It comes pinned, since by
/// value it would stand in the caller's future twice, and that is moved for each request.
pub(super) async fn caught<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    // Nothing is left half-done for others: a worker shares borrows within one poll at most, and those end
    // with the unwinding. The future is not polled again.
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_nothing_and_all_else_is_what_it_is() {
        assert_eq!(caught(pin!(async { 1 })).await, Some(1));
        let late = pin!(async {
            tokio::task::yield_now().await;
            assert_eq!(std::hint::black_box(1), 2, "a bug");
        });
        assert_eq!(caught(late).await, None);
    }
}
