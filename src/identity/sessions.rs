//! Sessions that can be taken up again without a whole handshake. A resumed session is not judged anew, so the tickets of
//! one configuration of rustls are never good for the next: whoever judged them may have believed others (ADR 0020).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
    server::ProducesTickets,
};

/// Tickets kept for one service: each serves once, and new connections come in bursts of about this size.
const MAX_TICKETS: usize = 16;

/// Tickets of one service.
#[derive(Debug, Default)]
pub(crate) struct ClientSessions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl ClientSessions {
    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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

/// Makes tickets for clients, with fresh keys. Without a source of chance none are made, and every handshake is a whole one.
pub(crate) fn ticketer() -> Arc<dyn ProducesTickets> {
    rustls::crypto::aws_lc_rs::Ticketer::new().unwrap_or_else(|_| Arc::new(NoTickets))
}

#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}
