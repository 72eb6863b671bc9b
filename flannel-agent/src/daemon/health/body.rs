//! The text of `/metrics`, made once for all who ask at the same time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Mutex, RwLock};
use tokio::time::{Instant, sleep_until};

/// Reading the maps takes milliseconds of a CPU: that many times a second, however many ask.
const GAP: Duration = Duration::from_millis(100);

/// Makes texts one after the other, and gives one text to all who wait. What somebody gets was begun after he asked.
#[derive(Debug, Default)]
pub(super) struct Shared {
    last: RwLock<Option<Made>>,
    turn: Mutex<()>,
}

#[derive(Debug, Clone)]
struct Made {
    begun: Instant,
    text: Bytes,
}

impl Shared {
    /// `None` if the text cannot be made.
    pub(super) async fn get<F>(self: &Arc<Self>, make: F) -> Option<Bytes>
    where
        F: FnOnce() -> Option<String> + Send + 'static,
    {
        let asked = Instant::now();
        let _turn = self.turn.lock().await;
        let last = self.last.read().await.clone();
        if let Some(last) = last {
            if last.begun >= asked {
                return Some(last.text);
            }
            sleep_until(last.begun + GAP).await;
        }
        let begun = Instant::now();
        let made = tokio::task::spawn_blocking(make).await;
        let text = Bytes::from(made.ok()??);
        *self.last.write().await = Some(Made {
            begun,
            text: text.clone(),
        });
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn who_asks_together_gets_one_text_and_none_is_old() {
        let shared = Arc::new(Shared::default());
        let made = Arc::new(AtomicUsize::new(0));
        let get = || {
            let (shared, made) = (Arc::clone(&shared), Arc::clone(&made));
            async move {
                let make = move || Some(made.fetch_add(1, Ordering::SeqCst).to_string());
                shared.get(make).await.unwrap()
            }
        };
        assert_eq!(get().await, "0");
        let many: Vec<_> = (0..200).map(|_| tokio::spawn(get())).collect();
        for one in many {
            let text = one.await.unwrap();
            assert!(text == "1" || text == "2", "{text:?}");
        }
        let before = made.load(Ordering::SeqCst);
        assert_eq!(get().await, before.to_string());
    }

    #[tokio::test]
    async fn what_cannot_be_made_is_tried_again() {
        let shared = Arc::new(Shared::default());
        assert_eq!(shared.get(|| None).await, None);
        let text = shared.get(|| Some("text".to_owned())).await;
        assert_eq!(text.unwrap(), "text");
    }
}
