//! What an answer to a client of HTTP/1.0 must be besides what hyper sees to (the version, no chunks, `Connection:
//! keep-alive` for those who asked for it): it must not promise a connection that will not live on.

use http::{HeaderValue, Response, Version, header};
use http_body::Body;

use super::body::ResponseBody;

/// Lets the connection end with `response` if only its end can tell where the body ends, or if the response says that
/// it does. hyper would promise both to a client that asked for keep-alive.
pub(super) fn settle_end(response: &mut Response<ResponseBody>) {
    let has_length = response.headers().contains_key(header::CONTENT_LENGTH);
    let ends = has_length || response.body().size_hint().exact().is_some();
    if ends && !response.headers().contains_key(header::CONNECTION) {
        return;
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    // An answer of this version lives on only if it says so.
    *response.version_mut() = Version::HTTP_10;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_answer_that_closes_says_nothing_else() {
        let body = || ResponseBody::Local(Some(Bytes::from_static(b"body")), None);
        let mut stays = Response::new(body());
        settle_end(&mut stays);
        assert_eq!((stays.version(), stays.headers().len()), (Version::HTTP_11, 0));
        let mut closes = Response::builder().header("connection", "close").body(body()).unwrap();
        settle_end(&mut closes);
        assert_eq!(
            (closes.version(), closes.headers()["connection"].as_bytes()),
            (Version::HTTP_10, &b"close"[..])
        );
    }
}
