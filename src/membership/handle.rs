//! What the rest of the process may ask of the membership: who is there, which keys, and a change of keys. Whoever drives
//! the membership holds the other ends.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{KeyHolders, KeyringError, KeyringOrder, KeyringReport, MembershipView};

/// An order, and where its outcome is wanted. If nobody waits for that any more, the order is carried out all the same.
pub type AskedOrder = (KeyringOrder, oneshot::Sender<Result<KeyringReport, KeyringError>>);

/// Asks the membership of this process; clones are cheap.
#[derive(Clone, Debug)]
pub struct Handle {
    view: watch::Receiver<Arc<MembershipView>>,
    keys: watch::Receiver<Arc<Vec<KeyHolders>>>,
    orders: mpsc::Sender<AskedOrder>,
}

impl Handle {
    /// Reads `view` and `keys`, sends to `orders`. Those who come when `orders` is full wait in line.
    #[must_use]
    pub fn new(
        view: watch::Receiver<Arc<MembershipView>>,
        keys: watch::Receiver<Arc<Vec<KeyHolders>>>,
        orders: mpsc::Sender<AskedOrder>,
    ) -> Self {
        Self { view, keys, orders }
    }

    /// The mesh as it was seen last.
    #[must_use]
    pub fn view(&self) -> Arc<MembershipView> {
        Arc::clone(&self.view.borrow())
    }

    /// The keys of this node, and who has them.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyHolders> {
        self.keys.borrow().to_vec()
    }

    /// Has every member change its keyring. Cancel-safe: an order that was taken is carried out, one that still waited in
    /// line is not.
    ///
    /// # Errors
    /// [`KeyringError`]: nothing has changed. [`KeyringError::Leaving`] also if the membership ended before it answered.
    pub async fn keyring(&self, order: KeyringOrder) -> Result<KeyringReport, KeyringError> {
        let (answer, outcome) = oneshot::channel();
        self.orders.send((order, answer)).await.map_err(|_| KeyringError::Leaving)?;
        outcome.await.unwrap_or(Err(KeyringError::Leaving))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::KeyMark;

    struct Driver {
        view: watch::Sender<Arc<MembershipView>>,
        keys: watch::Sender<Arc<Vec<KeyHolders>>>,
        orders: mpsc::Receiver<AskedOrder>,
    }

    fn driven() -> (Handle, Driver) {
        let (view, seen) = watch::channel(Arc::default());
        let (keys, known) = watch::channel(Arc::default());
        let (asking, orders) = mpsc::channel(1);
        (Handle::new(seen, known, asking), Driver { view, keys, orders })
    }

    #[test]
    fn what_is_told_last_is_what_is_seen() {
        let (handle, driver) = driven();
        assert_eq!((handle.view().revision, handle.keys().len()), (0, 0));
        driver.view.send_replace(Arc::new(MembershipView { revision: 7, ..MembershipView::default() }));
        let key = KeyHolders { mark: KeyMark(1), is_primary: true, holders: 2, sealers: 2, members: 2 };
        driver.keys.send_replace(Arc::new(vec![key.clone()]));
        assert_eq!((handle.view().revision, handle.keys()), (7, vec![key]));
    }

    #[tokio::test]
    async fn an_order_comes_back_with_its_outcome() {
        let (handle, mut driver) = driven();
        let asked = tokio::spawn(async move { handle.keyring(KeyringOrder::Use(KeyMark(5))).await });
        let (order, answer) = driver.orders.recv().await.unwrap();
        assert_eq!(order, KeyringOrder::Use(KeyMark(5)));
        answer.send(Err(KeyringError::Unknown(KeyMark(5)))).unwrap();
        assert_eq!(asked.await.unwrap(), Err(KeyringError::Unknown(KeyMark(5))));
    }

    #[tokio::test]
    async fn a_membership_that_has_ended_is_leaving() {
        let (handle, mut driver) = driven();
        let waiting = handle.clone();
        let asked = tokio::spawn(async move { waiting.keyring(KeyringOrder::Remove(KeyMark(1))).await });
        drop(driver.orders.recv().await);
        assert_eq!(asked.await.unwrap(), Err(KeyringError::Leaving), "it ends while the order is under way");
        drop(driver);
        assert_eq!(handle.keyring(KeyringOrder::Remove(KeyMark(1))).await, Err(KeyringError::Leaving));
    }
}
