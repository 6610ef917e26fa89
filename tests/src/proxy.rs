//! A TCP proxy in front of a Kafka broker that knows where requests begin: it holds them back, tells of them,
//! and slows everything down.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The key of AddOffsetsToTxn requests.
pub const ADD_OFFSETS_TO_TXN: i16 = 25;
/// The key of EndTxn requests.
pub const END_TXN: i16 = 26;
/// The key of TxnOffsetCommit requests.
pub const TXN_OFFSET_COMMIT: i16 = 28;
/// The longest request that makes sense here.
const REQUEST_BYTES_MAX: usize = 128 << 20;

/// What is done with the next request of a kind.
enum Next {
    /// It is held, its client's connection ends, and who waits is told.
    Hold(Sender<Held>),
    /// It waits, and its connection with it, until who is told lets go of it.
    Pause(Sender<Paused>),
    /// It is passed on, and who waits is told.
    Tell(Sender<()>),
}

/// A request that waits until this is dropped.
pub struct Paused(#[expect(dead_code, reason = "its end is what counts")] Sender<()>);

/// A request that did not come to the broker yet.
pub struct Held {
    request: Vec<u8>,
    broker: TcpStream,
}

impl Held {
    /// The broker gets it now, and a moment to do what it asks for.
    pub fn release(mut self) {
        // The broker may have closed the connection: then it came too late even to be refused.
        let _ = self.broker.write_all(&self.request);
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[derive(Default)]
struct State {
    next: HashMap<i16, Next>,
    bytes_per_second: Option<u64>,
}

/// A proxy; it ends with the test's process.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens, and passes what comes on to a port of this machine.
    ///
    /// # Panics
    /// When it can't listen.
    #[must_use]
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A broker that is away refuses: so does the proxy.
                let Ok(broker) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let _ = (client.set_nodelay(true), broker.set_nodelay(true));
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || pass(client, broker, &shared));
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Holds the next request of a kind back; its client sees its connection end.
    #[must_use]
    pub fn hold_next(&self, key: i16) -> Receiver<Held> {
        let (tell, told) = channel();
        lock(&self.state).next.insert(key, Next::Hold(tell));
        told
    }

    /// Keeps the next request of a kind waiting.
    #[must_use]
    pub fn pause_next(&self, key: i16) -> Receiver<Paused> {
        let (tell, told) = channel();
        lock(&self.state).next.insert(key, Next::Pause(tell));
        told
    }

    /// Tells of the next request of a kind, once the broker has it.
    #[must_use]
    pub fn tell_next(&self, key: i16) -> Receiver<()> {
        let (tell, told) = channel();
        lock(&self.state).next.insert(key, Next::Tell(tell));
        told
    }

    /// So many bytes a second, each way of each connection; none: as fast as it goes.
    pub fn limit(&self, bytes_per_second: Option<u64>) {
        lock(&self.state).bytes_per_second = bytes_per_second;
    }
}

/// Passes one connection's bytes on, both ways.
fn pass(client: TcpStream, broker: TcpStream, state: &Arc<Mutex<State>>) {
    let (Ok(mut to_client), Ok(mut from_broker)) = (client.try_clone(), broker.try_clone()) else { return };
    let shared = Arc::clone(state);
    std::thread::spawn(move || {
        let mut piece = vec![0; 16 << 10];
        while let Ok(n) = from_broker.read(&mut piece) {
            if n == 0 || slowly(&mut to_client, &piece[..n], &shared).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let (mut from_client, mut to_broker) = (client, broker);
    loop {
        let Some(request) = request(&mut from_client) else {
            let _ = to_broker.shutdown(Shutdown::Both);
            return;
        };
        let key = i16::from_be_bytes([request[4], request[5]]);
        let next = lock(state).next.remove(&key);
        // Who asked may have given up.
        match &next {
            Some(Next::Hold(held)) => {
                let _ = from_client.shutdown(Shutdown::Both);
                let _ = held.send(Held { request, broker: to_broker });
                return;
            }
            Some(Next::Pause(paused)) => {
                let (end, ended) = channel();
                let _ = paused.send(Paused(end));
                let _ = ended.recv();
            }
            Some(Next::Tell(_)) | None => {}
        }
        if slowly(&mut to_broker, &request, state).is_err() {
            let _ = from_client.shutdown(Shutdown::Both);
            return;
        }
        if let Some(Next::Tell(tell)) = next {
            let _ = tell.send(());
        }
    }
}

/// A whole request, its length before it.
fn request(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    from.read_exact(&mut head).ok()?;
    let length =
        usize::try_from(i32::from_be_bytes(head)).ok().filter(|n| (2..REQUEST_BYTES_MAX).contains(n))?;
    let mut request = vec![0; 4 + length];
    request[..4].copy_from_slice(&head);
    from.read_exact(&mut request[4..]).ok()?;
    Some(request)
}

/// Writes as fast as is allowed.
fn slowly(to: &mut TcpStream, bytes: &[u8], state: &Mutex<State>) -> std::io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let limit = lock(state).bytes_per_second;
        let Some(limit) = limit else { return to.write_all(rest) };
        // A tenth of a second's worth at a time.
        let some = usize::try_from(limit / 10).unwrap_or(usize::MAX).clamp(1, rest.len());
        to.write_all(&rest[..some])?;
        rest = &rest[some..];
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
