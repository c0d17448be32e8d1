//! Keeps HTTP out of bytes that are passed on unread to an application that may well understand it: there it would be
//! served past all that is demanded of requests. What begins like HTTP is told by `detect`.
//!
//! Nothing is held back until it is clear what the client speaks: a client may say a word and wait for the answer, and
//! nobody could know how long. What it says passes at once, and the connection is cut by the first read that makes it
//! HTTP, of which nothing passes. What passed before it was at most white space, a method and a target without the end
//! of its line, for which no server calls its application. So there is no time limit to wait out, either.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::detect::{Beginning, Speaks};
use crate::net::Stream;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Anything.
    Any,
    /// Anything but HTTP.
    NoHttp,
}

/// The connection of a client that is held to what it may send.
pub(super) struct Screened<'a> {
    stream: &'a mut Stream,
    watch: Watch,
}

enum Watch {
    /// Not clear yet.
    Beginning(Beginning),
    /// Nothing to look for, or it is something else.
    Over,
    /// It was HTTP.
    Http,
}

impl<'a> Screened<'a> {
    pub(super) fn new(stream: &'a mut Stream, content: Content) -> Self {
        let watch = match content {
            Content::Any => Watch::Over,
            Content::NoHttp => Watch::Beginning(Beginning::new()),
        };
        Self { stream, watch }
    }

    /// Whether the connection broke off because it was HTTP.
    pub(super) fn was_http(&self) -> bool {
        matches!(self.watch, Watch::Http)
    }
}

impl AsyncRead for Screened<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, watch } = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut **stream).poll_read(cx, buf))?;
        let verdict = match watch {
            Watch::Beginning(beginning) => beginning.push(&buf.filled()[before..]),
            Watch::Over => None,
            Watch::Http => Some(Speaks::Http),
        };
        match verdict {
            None => {}
            Some(Speaks::Other) => *watch = Watch::Over,
            Some(Speaks::Http) => {
                *watch = Watch::Http;
                buf.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Screened<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_shutdown(cx)
    }
}
