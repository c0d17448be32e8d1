//! When a request has taken too long: the limit of its route, and the limit of silence.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

use super::body::Upload;
use crate::{rt::clock, types::Mono};

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
    timer: Option<Pin<Box<Sleep>>>,
    armed_for: Mono,
}

impl Deadline {
    /// A request that began at `began`. `upload` is its body, if it has one.
    pub(crate) fn new(
        limit: Option<Duration>,
        idle: Duration,
        began: Mono,
        upload: Option<Rc<Upload>>,
    ) -> Self {
        Self { limit, idle, began, progress: began, upload, timer: None, armed_for: Mono::ZERO }
    }

    /// Something came from the endpoint.
    pub(crate) fn progress(&mut self) {
        self.progress = clock::now();
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
        if let Some(upload) = &self.upload {
            if upload.ended().is_none() {
                upload.wake_at_end(cx.waker());
            }
        }
        loop {
            let at = self.at();
            if self.timer.is_none() || at < self.armed_for {
                self.armed_for = at;
                let instant = clock::instant(at);
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(instant),
                    None => self.timer = Some(Box::pin(tokio::time::sleep_until(instant))),
                }
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
