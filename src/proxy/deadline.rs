//! When a request has taken too long: the limit of its route, and the limit of silence.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

use super::body::Upload;
use crate::{rt::clock, types::Mono};

/// A timer that a connection keeps between its requests. Setting it later, which is what the next request does,
/// costs one atomic operation; making and removing one costs a walk through the timer wheel.
pub(crate) type SpareTimer = Rc<Cell<Option<Pin<Box<Sleep>>>>>;

/// The end of a request's time.
///
/// As in Envoy, the limit of the route counts from the end of the request: a slow upload, or a stream that the
/// client keeps open, is not the endpoint's fault. Silence (`idle`) counts from the last frame in
/// either direction.
pub(crate) struct Deadline {
    limit: Option<Duration>,
    idle: Duration,
    began: Mono,
    progress: Mono,
    upload: Option<Rc<Upload>>,
    clock: Rc<Cell<Mono>>,
    spare: SpareTimer,
    timer: Option<Pin<Box<Sleep>>>,
    armed_for: Mono,
}

impl Deadline {
    /// A request that began at `began`. `upload` is its body, if it has one. `clock` is the worker's coarse one,
    /// good enough for silence.
    pub(crate) fn new(
        limit: Option<Duration>,
        idle: Duration,
        began: Mono,
        upload: Option<Rc<Upload>>,
        clock: Rc<Cell<Mono>>,
        spare: SpareTimer,
    ) -> Self {
        Self { limit, idle, began, progress: began, upload, clock, spare, timer: None, armed_for: Mono::ZERO }
    }

    /// Something came from the endpoint.
    pub(crate) fn progress(&mut self) {
        self.progress = self.progress.max(self.clock.get());
    }

    /// When it ends, by what is known now.
    fn at(&self) -> Mono {
        let heard = self.upload.as_ref().map_or(self.progress, |upload| upload.last().max(self.progress));
        let silence = heard.after(self.idle);
        let began = match &self.upload {
            None => Some(self.began),
            Some(upload) => upload.ended(),
        };
        match (self.limit, began) {
            (Some(limit), Some(began)) => began.after(limit).min(silence),
            // While the client still sends, it is the guard of its connection that watches for silence.
            (None | Some(_), _) => silence,
        }
    }

    /// Ready when the time is up. The timer is made at the first poll that has to wait.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(upload) = self.upload.as_ref().filter(|upload| upload.ended().is_none()) {
            upload.wake_at_end(cx.waker());
        }
        loop {
            let at = self.at();
            if self.timer.is_none() || at < self.armed_for {
                self.armed_for = at;
                let instant = clock::instant(at);
                let timer = self.timer.take().or_else(|| self.spare.take());
                self.timer = Some(match timer {
                    Some(mut timer) => {
                        timer.as_mut().reset(instant);
                        timer
                    }
                    None => Box::pin(tokio::time::sleep_until(instant)),
                });
            }
            let rings = self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if !rings {
                return Poll::Pending;
            }
            // The end may have moved since the timer was set: progress was made.
            if clock::now() >= self.at() {
                return Poll::Ready(());
            }
            self.timer = None;
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.spare.set(Some(timer));
        }
    }
}
