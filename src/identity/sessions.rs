//! Sessions that can be taken up again without a whole handshake. A resumed session is not verified anew, so all of them
//! are forgotten as soon as it changes whom we believe.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
    server::ProducesTickets,
};

use crate::types::Live;

/// Tickets kept for one service: each serves once, and new connections come in bursts of about this size.
const MAX_TICKETS: usize = 16;

/// Tickets of one service, for one way of believing.
#[derive(Debug)]
pub(crate) struct ClientSessions {
    epoch: Arc<AtomicU64>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    epoch: u64,
    group: Option<NamedGroup>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl ClientSessions {
    /// None yet. They count as long as `epoch` shows the same number.
    pub(crate) fn new(epoch: Arc<AtomicU64>) -> Self {
        Self { epoch, kept: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Relaxed);
        if kept.epoch != epoch {
            kept.epoch = epoch;
            kept.tickets.clear();
        }
        work(&mut kept)
    }
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|kept| kept.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(|kept| kept.group)
    }

    // TLS 1.2 is not spoken within a mesh unless it is asked for, and then without resumption.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.with(|kept| {
            if kept.tickets.len() == MAX_TICKETS {
                kept.tickets.pop_front();
            }
            kept.tickets.push_back(ticket);
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(|kept| kept.tickets.pop_back())
    }
}

/// Makes tickets for clients, with keys that [`Ticketer::forget`] throws away.
#[derive(Debug)]
pub(crate) struct Ticketer(Live<Option<Arc<dyn ProducesTickets>>>);

impl Ticketer {
    /// With fresh keys. Without a source of chance no tickets are made, and every handshake is a whole one.
    pub(crate) fn new() -> Self {
        Self(Live::new(Arc::new(fresh())))
    }

    /// No ticket that was made so far is good any more.
    pub(crate) fn forget(&self) {
        drop(self.0.swap(Arc::new(fresh())));
    }
}

fn fresh() -> Option<Arc<dyn ProducesTickets>> {
    rustls::crypto::aws_lc_rs::Ticketer::new().ok()
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        self.0.peek().is_some()
    }

    fn lifetime(&self) -> u32 {
        self.0.peek().as_ref().as_ref().map_or(0, |ticketer| ticketer.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.peek().as_ref().as_ref()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.peek().as_ref().as_ref()?.decrypt(cipher)
    }
}
