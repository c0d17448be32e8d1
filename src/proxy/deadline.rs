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

/// The limits of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of the route: from the end of the request, retries included.
    pub(crate) request: Option<Duration>,
    /// When the caller stops waiting, by what it said.
    pub(crate) caller: Option<Mono>,
    /// Longest silence.
    pub(crate) idle: Duration,
    /// From the head to the end of the request's body.
    pub(crate) upload: Option<Duration>,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// That of one attempt.
    Try,
    /// That of the route.
    Request,
    /// That of the caller.
    Caller,
    /// Silence.
    Idle,
    /// That of the body of the request: its client takes too long to send it.
    Upload,
}

/// The end of a request's time.
///
/// As in Envoy, the limit of the route, and that of one attempt, count from the end of the request: a slow upload,
/// or a stream that the client keeps open, is not the endpoint's fault. Silence (`idle`) counts from the last frame
/// in either direction. What the caller allows is absolute. How long the upload itself may take is a limit of its own.
pub(crate) struct Deadline {
    limits: Limits,
    began: Mono,
    progress: Mono,
    /// Limit and begin of the present attempt.
    attempt: Option<(Duration, Mono)>,
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
        limits: Limits,
        began: Mono,
        upload: Option<Rc<Upload>>,
        clock: Rc<Cell<Mono>>,
        spare: SpareTimer,
    ) -> Self {
        if let Some(upload) = &upload {
            upload.flow().limit(limits.idle);
        }
        Self {
            limits,
            began,
            progress: began,
            attempt: None,
            upload,
            clock,
            spare,
            timer: None,
            armed_for: Mono::ZERO,
        }
    }

    /// The same end for another attempt at the same time.
    pub(crate) fn twin(&self) -> Self {
        let (upload, clock, spare) = (self.upload.clone(), Rc::clone(&self.clock), Rc::clone(&self.spare));
        let mut twin = Self::new(self.limits, self.began, upload, clock, spare);
        twin.attempt = self.attempt;
        twin
    }

    /// An attempt begins, which may take this long.
    pub(crate) fn begin_try(&mut self, limit: Option<Duration>) {
        self.attempt = limit.map(|limit| (limit, clock::now()));
    }

    /// The attempt has its answer, or failed.
    pub(crate) fn end_try(&mut self) {
        self.attempt = None;
    }

    /// Time until the request ends by its limits; `None` if none of them has begun to count.
    pub(crate) fn remaining(&self, now: Mono) -> Option<Duration> {
        Some(self.end()?.since(now))
    }

    /// The limit that was reached already, if one was.
    pub(crate) fn spent(&self, now: Mono) -> Option<Expired> {
        self.end().is_some_and(|end| end <= now).then(|| self.expired(now))
    }

    /// What the next hop is told: also the limit of this attempt, after which nobody waits for its answer.
    pub(crate) fn left_for_upstream(&self, now: Mono) -> Option<Duration> {
        let end = [self.end(), self.end_of_try()].into_iter().flatten().min()?;
        Some(end.since(now))
    }

    /// When the request is complete, as far as it is.
    fn complete(&self) -> Option<Mono> {
        self.upload.as_ref().map_or(Some(self.began), |upload| upload.ended())
    }

    fn end(&self) -> Option<Mono> {
        let route = self.limits.request.zip(self.complete()).map(|(limit, complete)| complete.after(limit));
        [route, self.limits.caller].into_iter().flatten().min()
    }

    fn end_of_upload(&self) -> Option<Mono> {
        let is_under_way = self.upload.as_ref().is_some_and(|upload| upload.ended().is_none());
        self.limits.upload.filter(|_| is_under_way).map(|limit| self.began.after(limit))
    }

    fn end_of_try(&self) -> Option<Mono> {
        let (limit, began) = self.attempt?;
        Some(self.complete()?.max(began).after(limit))
    }

    /// Whether it is the client, with the rest of its body, who keeps the request from going on.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.fault().is_some() || upload.is_starved())
    }

    /// Something came from the endpoint.
    pub(crate) fn progress(&mut self) {
        self.progress = self.progress.max(self.clock.get());
        if let Some(upload) = &self.upload {
            upload.flow().other_side_moved(self.progress);
        }
    }

    /// When it ends, by what is known now.
    fn at(&self) -> Mono {
        // While the client still sends, it is the guard of its connection that watches for silence.
        let ends = [self.end(), self.end_of_try(), self.end_of_upload()];
        ends.into_iter().flatten().fold(self.end_of_silence(), Mono::min)
    }

    fn end_of_silence(&self) -> Mono {
        let heard = self.upload.as_ref().map_or(self.progress, |upload| upload.last().max(self.progress));
        heard.after(self.limits.idle)
    }

    /// Which of the limits it was. Whoever has the least to do with the endpoint is named first.
    fn expired(&self, now: Mono) -> Expired {
        if self.end_of_upload().is_some_and(|end| end <= now) {
            if let Some(upload) = &self.upload {
                upload.time_out();
            }
            Expired::Upload
        } else if self.limits.caller.is_some_and(|caller| caller <= now) {
            Expired::Caller
        } else if self.end().is_some_and(|end| end <= now) {
            Expired::Request
        } else if self.end_of_try().is_some_and(|end| end <= now) {
            Expired::Try
        } else {
            Expired::Idle
        }
    }

    /// Ready when the time is up. The timer is made at the first poll that has to wait.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
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
            let now = clock::now();
            if now >= self.at() {
                return Poll::Ready(self.expired(now));
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
