//! What is remembered of one request, and written down exactly once, when it ends: metrics and access log.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use http_body::Frame;

use super::{attempt::Answer, body::Upload, connection::Downstream, framing::ActiveRequest, shed::Admitted};
use crate::{
    identity::jwt::Verified,
    rt::clock,
    snapshot::{ActiveRequest as ActiveRequestOf, Endpoint, Route},
    telemetry::{
        access_log::AccessRecord,
        metrics::{HttpMetrics, InFlight, RequestOutcome, RetryReason},
        request_id::RequestId,
        trace::TraceId,
    },
    types::{Claims, Flag, Mono},
};

/// One request from its head to its end. Dropping it writes it down; a request that was neither completed nor
/// failed by then is one whose client went away.
pub(crate) struct RequestRecord {
    downstream: Rc<Downstream>,
    active: ActiveRequest,
    started: Mono,
    method: Method,
    target: Uri,
    version: Version,
    grpc: bool,
    authority: Option<HeaderValue>,
    request_id: Option<RequestId>,
    trace: Option<TraceId>,
    route: Option<Arc<Route>>,
    service: Option<Arc<str>>,
    endpoint: Option<Arc<Endpoint>>,
    metrics: Option<InFlight>,
    place: Option<ActiveRequestOf>,
    admitted: Admitted,
    verified: Option<Arc<Verified>>,
    /// The rule that refused it.
    rule: Option<Arc<str>>,
    upload: Option<Rc<Upload>>,
    status: u16,
    flag: Flag,
    finished: bool,
    attempts: u32,
    sent_bytes: u64,
    /// Bytes that the client sent into the tunnel that the request became.
    tunnelled_bytes: u64,
    /// When the request was handed to the endpoint's connection.
    sent_up: Option<Mono>,
    /// When the head of the response came.
    head_came: Option<Mono>,
    /// When that head was handed to the client's connection.
    head_sent: Option<Mono>,
}

impl RequestRecord {
    /// Begins the record of the request with this head, and counts it as active on its connection.
    pub(crate) fn begin(
        downstream: &Rc<Downstream>,
        head: &http::request::Parts,
        started: Mono,
    ) -> Box<Self> {
        Box::new(Self {
            downstream: Rc::clone(downstream),
            active: downstream.state.begin_request(),
            started,
            method: head.method.clone(),
            target: head.uri.clone(),
            version: head.version,
            // To CONNECT, the 200 that gRPC wants for errors would be a tunnel.
            grpc: head.method != Method::CONNECT && is_grpc(&head.headers),
            authority: None,
            request_id: None,
            trace: None,
            route: None,
            service: None,
            endpoint: None,
            metrics: None,
            place: None,
            admitted: Admitted::default(),
            verified: None,
            rule: None,
            upload: None,
            status: 0,
            flag: Flag::None,
            finished: false,
            attempts: 0,
            sent_bytes: 0,
            tunnelled_bytes: 0,
            sent_up: None,
            head_came: None,
            head_sent: None,
        })
    }

    pub(crate) fn started(&self) -> Mono {
        self.started
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc
    }

    pub(crate) fn is_http1(&self) -> bool {
        self.version <= Version::HTTP_11
    }

    pub(crate) fn request_id(&self) -> Option<&[u8]> {
        self.request_id.as_ref().map(RequestId::as_bytes)
    }

    /// The request as its connection sees it.
    pub(crate) fn active(&self) -> &ActiveRequest {
        &self.active
    }

    pub(crate) fn identify(&mut self, authority: HeaderValue, request_id: RequestId, trace: Option<TraceId>) {
        self.authority = Some(authority);
        self.request_id = Some(request_id);
        self.trace = trace;
    }

    pub(crate) fn retried(&self, reason: RetryReason) {
        if let Some(metrics) = &self.metrics {
            metrics.retried(reason);
        }
    }

    pub(crate) fn uploads(&mut self, upload: Rc<Upload>) {
        self.upload = Some(upload);
    }

    /// The request belongs to these metrics from now on.
    pub(crate) fn count_in(&mut self, metrics: &Arc<HttpMetrics>) {
        self.metrics = Some(metrics.enter());
    }

    pub(crate) fn routed(&mut self, route: &Arc<Route>, service: Option<&Arc<str>>) {
        self.route = Some(Arc::clone(route));
        self.service = service.cloned();
    }

    pub(crate) fn attempt(&mut self, endpoint: &Arc<Endpoint>) {
        self.attempts += 1;
        self.endpoint = Some(Arc::clone(endpoint));
    }

    /// An attempt at `endpoint` got this answer.
    pub(crate) fn answered_by(&mut self, endpoint: &Arc<Endpoint>, answer: &Answer) {
        if !self.endpoint.as_ref().is_some_and(|known| Arc::ptr_eq(known, endpoint)) {
            self.endpoint = Some(Arc::clone(endpoint));
        }
        self.sent_up = Some(answer.sent_up);
        self.head_came = Some(answer.head_came);
        self.status = answer.response.status().as_u16();
    }

    /// The request occupies one of the places of its service until its end.
    pub(crate) fn occupies(&mut self, place: ActiveRequestOf) {
        self.place = Some(place);
    }

    /// What the request was given when it was let in is held until its end.
    pub(super) fn admitted(&mut self, admitted: Admitted) {
        self.admitted = admitted;
    }

    /// The request is made for the bearer of this token.
    pub(crate) fn authenticated(&mut self, verified: Option<Arc<Verified>>) {
        self.verified = verified;
    }

    /// What is known of the user for whom the request is made; only ever from a token that was verified.
    pub(crate) fn claims(&self) -> Option<&Claims> {
        self.verified.as_deref().map(|verified| &*verified.claims)
    }

    /// This rule says that the caller may not make the request.
    pub(crate) fn refused_by(&mut self, rule: Arc<str>) {
        self.rule = Some(rule);
    }

    pub(crate) fn head_sent(&mut self) {
        self.head_sent = Some(clock::now());
    }

    /// The proxy answered by itself; nothing can fail any more but the client.
    pub(crate) fn answered(&mut self, status: StatusCode, flag: Flag) {
        self.status = status.as_u16();
        self.flag = flag;
        self.finished = true;
    }

    pub(crate) fn passed(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.sent_bytes += data.len() as u64;
        }
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// The request becomes a tunnel, and its client is told so with `status`.
    pub(crate) fn granted(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// The tunnel that the request became has ended.
    pub(crate) fn tunnelled(&mut self, up: u64, down: u64) {
        self.sent_bytes = down;
        self.tunnelled_bytes = up;
        self.finished = true;
    }

    pub(crate) fn complete(&mut self) {
        self.finished = true;
    }

    /// The response broke off.
    pub(crate) fn fail(&mut self, flag: Flag) {
        self.flag = flag;
        self.finished = true;
    }

    fn overhead(&self) -> Option<Duration> {
        let (up, came, sent) = (self.sent_up?, self.head_came?, self.head_sent?);
        Some(up.since(self.started) + sent.since(came))
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if !self.finished {
            self.flag = Flag::DownstreamClosed;
        }
        let now = clock::now();
        let duration = now.since(self.started);
        let received_bytes = self.upload.as_ref().map_or(0, |upload| upload.bytes()) + self.tunnelled_bytes;
        if let (Some(slot), Some(came)) = (&self.admitted.slot, self.head_came) {
            slot.observe(came.since(self.started), now);
        }
        let ttfb = self.head_sent.map(|at| at.since(self.started));
        if let Some(metrics) = &self.metrics {
            metrics.observe(&RequestOutcome {
                method: &self.method,
                status: self.status,
                flag: self.flag,
                duration,
                time_to_first_byte: ttfb,
                overhead: self.overhead(),
                request_bytes: received_bytes,
                response_bytes: self.sent_bytes,
            });
        }
        let worker = &self.downstream.worker;
        worker.access_log.borrow_mut().record(&AccessRecord {
            at: worker.wall_at(now),
            direction: self.downstream.side,
            client: Some(self.downstream.peer.ip()),
            method: &self.method,
            host: self.authority.as_ref().map_or(&b""[..], HeaderValue::as_bytes),
            path: self.target.path(),
            route: self.route.as_ref().map_or("", |route| &route.name),
            service: self.service.as_deref().unwrap_or(""),
            endpoint: self.endpoint.as_ref().map(|endpoint| &endpoint.address),
            status: self.status,
            flag: self.flag,
            bytes_in: received_bytes,
            bytes_out: self.sent_bytes,
            duration,
            time_to_first_byte: ttfb,
            upstream: self.sent_up.zip(self.head_came).map(|(up, came)| came.since(up)),
            overhead: self.overhead(),
            attempts: self.attempts,
            protocol: self.version,
            request_id: self.request_id().unwrap_or_default(),
            source: self.downstream.caller.as_ref().map_or("", |caller| caller.name()),
            rule: self.rule.as_deref().unwrap_or(""),
            trace_id: self.trace,
        });
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc")
            && matches!(value.get(b"application/grpc".len()), None | Some(b'+' | b';'))
    })
}
