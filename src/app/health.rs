//! Health of the parts without which nothing can be changed: the store, and the thread that makes changes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{error, info};

use crate::admin::http::gate::AdminGate;
use crate::control::Control;
use crate::store::Store;

/// Interval at which both are asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time within which both must answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes `/readyz` answer 503 while the store cannot be changed, or while one of both has not answered for 10 s.
pub(super) async fn watch(store: Arc<dyn Store>, control: Control, gate: AdminGate) -> anyhow::Result<()> {
    let mut store = Probe::new("the data directory has not answered for 10 s", move || {
        let store = store.clone();
        async move {
            let health = tokio::task::spawn_blocking(move || store.health()).await;
            let health = health.map_err(anyhow::Error::from).and_then(|health| Ok(health?));
            health.map_err(|error| format!("{error:#}"))
        }
    });
    let mut writer = Probe::new("the thread that makes changes has not answered for 10 s", move || {
        let control = control.clone();
        async move {
            // Its end is noticed elsewhere, and is the end of the program.
            control.answers().await;
            Ok(())
        }
    });
    let mut is_healthy = true;
    loop {
        let (stored, written) = tokio::join!(store.health(), writer.health());
        let reason = stored.and(written).err();
        // Set before it is logged: the log may be what does not answer.
        gate.set_unready(reason.clone());
        if reason.is_none() != is_healthy {
            is_healthy = reason.is_none();
            drop(tokio::task::spawn_blocking(move || log(reason.as_deref())));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn log(reason: Option<&str>) {
    match reason {
        Some(reason) => error!(reason, "nothing can be changed any more; what is served stays"),
        None => info!("changes are accepted again"),
    }
}

/// Question that is asked again once it was answered.
struct Probe<F, A> {
    ask: F,
    /// Question without an answer, with its time.
    asked: Option<(Pin<Box<A>>, Instant)>,
    /// Newest answer, or that there is none.
    health: Result<(), String>,
    /// Reason of which an answer that does not come is a sign.
    silence: &'static str,
    /// Time within which the answer must come.
    patience: Duration,
}

impl<F: Fn() -> A, A: Future<Output = Result<(), String>>> Probe<F, A> {
    fn new(silence: &'static str, ask: F) -> Self {
        Self { ask, asked: None, health: Ok(()), silence, patience: PATIENCE }
    }

    /// Asks, if there is no question without an answer, and waits for a moment. Returns what is known then.
    async fn health(&mut self) -> Result<(), String> {
        let (answer, since) = self.asked.get_or_insert_with(|| (Box::pin((self.ask)()), Instant::now()));
        match timeout(INTERVAL, answer).await {
            Ok(health) => (self.asked, self.health) = (None, health),
            Err(_) if since.elapsed() >= self.patience => self.health = Err(self.silence.to_owned()),
            Err(_) => {}
        }
        self.health.clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_a_failure_until_it_comes() {
        let answers = Arc::new(Semaphore::new(1));
        let ask = || {
            let answers = answers.clone();
            async move { answers.acquire().await.map(|permit| permit.forget()).map_err(|error| error.to_string()) }
        };
        let mut probe = Probe { patience: INTERVAL, ..Probe::new("silent", ask) };
        assert_eq!(probe.health().await, Ok(()));
        assert_eq!(probe.health().await, Err("silent".to_owned()));
        answers.add_permits(1);
        assert_eq!(probe.health().await, Ok(()), "the question that was asked is answered");
        assert_eq!(answers.available_permits(), 0);
    }
}
