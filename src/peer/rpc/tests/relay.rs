//! A relay before a node: counts connections, cuts them, or lets them fall silent.

use std::{
    io,
    net::{self, Shutdown, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Ends with its owner.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    count: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    /// Connections with a lower number are to be cut, or silent.
    cut: watch::Sender<usize>,
    frozen: watch::Sender<usize>,
    _tasks: JoinSet<()>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Relay {
    pub(super) async fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (cut, frozen) = (watch::Sender::new(0), watch::Sender::new(0));
        let mut tasks = JoinSet::new();
        let (counted, opened, cuts, freezes) = (count.clone(), open.clone(), cut.clone(), frozen.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let number = counted.fetch_add(1, Relaxed);
                opened.fetch_add(1, SeqCst);
                let open = Open(opened.clone());
                let (mut cut, mut frozen) = (cuts.subscribe(), freezes.subscribe());
                connections.spawn(async move {
                    let _open = open;
                    let mut there = TcpStream::connect(node).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut stream, &mut there) => return,
                        _ = cut.wait_for(|below| number < *below) => return,
                        _ = frozen.wait_for(|below| number < *below) => {}
                    }
                    let _ = cut.wait_for(|below| number < *below).await;
                });
            }
        });
        Self { address, count, open, cut, frozen, _tasks: tasks }
    }

    /// Connections there have been.
    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Connections there are.
    pub(super) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// Ends the connections that there are.
    pub(super) fn cut(&self) {
        self.cut.send_replace(self.count());
    }

    /// Passes nothing on any more on the connections that there are.
    pub(super) fn freeze(&self) {
        self.frozen.send_replace(self.count());
    }
}

/// A relay of one connection after the other outside of the runtime, so that it can be cut while nothing in the runtime moves.
/// Ends with its owner.
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    /// The last connection, on both sides.
    ends: Arc<Mutex<Vec<net::TcpStream>>>,
    is_over: Arc<AtomicBool>,
}

impl Wire {
    pub(super) fn to(node: SocketAddr) -> Self {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ends, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, over) = (ends.clone(), is_over.clone());
        thread::spawn(move || {
            while let Ok((here, _)) = listener.accept()
                && !over.load(SeqCst)
            {
                let there = net::TcpStream::connect(node).unwrap();
                let pass = |from: &net::TcpStream, to: &net::TcpStream| {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || io::copy(&mut from, &mut to));
                };
                // Before anything passes: whoever has an answer over it can cut it.
                let mut kept = kept.lock().unwrap();
                pass(&here, &there);
                pass(&there, &here);
                *kept = vec![here, there];
            }
        });
        Self { address, ends, is_over }
    }

    /// Ends the connection that there is. When this returns, both sides have been sent its end.
    pub(super) fn cut(&self) {
        for end in self.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        self.cut();
        drop(net::TcpStream::connect(self.address));
    }
}
