//! Clients over TCP (RFC 7766): many queries on one connection, answered as the answers come.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    rc::Rc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use super::{Gate, Proxy, request, waiting::Origin};

/// The longest answer that its length can say.
pub(super) const LONGEST_ANSWER: usize = 65535;

/// Octets of answers that wait to be sent, beyond which no more is read.
const OUTPUT: usize = 64 * 1024;

/// What is read at once.
const INPUT: usize = 4096;

/// A connection, for the lookups that it waits for.
#[derive(Default)]
pub(super) struct Client {
    /// Answers with their lengths, ready to be sent.
    output: RefCell<Vec<u8>>,
    /// Queries that wait for lookups.
    waiting: Cell<usize>,
    wake: Notify,
}

impl Client {
    /// The answer to a query that waited.
    pub(super) fn answer(&self, octets: &[u8]) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        self.write(octets);
        self.wake.notify_one();
    }

    /// Answers are never longer than [`LONGEST_ANSWER`].
    fn write(&self, octets: &[u8]) {
        let Ok(length) = u16::try_from(octets.len()) else {
            return;
        };
        let mut output = self.output.borrow_mut();
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(octets);
    }
}

impl<G: Gate> Proxy<'_, G> {
    pub(super) async fn serve_tcp(&self, listener: &TcpListener) -> Infallible {
        let mut clients = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if clients.len() < self.limits.tcp_clients => {
                    match accepted {
                        Ok((stream, _)) => clients.push(self.serve_client(stream)),
                        // No descriptor is free: one that is in use has to end first.
                        Err(e) => {
                            debug!("dns: cannot accept: {e}");
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
                Some(()) = clients.next() => {}
            }
        }
    }

    async fn serve_client(&self, stream: TcpStream) {
        if let Err(e) = self.converse(&stream).await {
            debug!("dns: over TCP: {e}");
        }
    }

    /// Until the client has closed and has all its answers, is silent or does not read for too
    /// long, or sends what is no query.
    async fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        let client = Rc::new(Client::default());
        let mut input = Vec::new();
        let mut sent = 0;
        let mut closed = false;
        let mut end = Instant::now() + self.limits.tcp_idle;
        loop {
            let mut idle = true;
            while self.has_room(&client)
                && let Some(query) = next_query(&input)
            {
                self.count(|c| c.over_tcp += 1);
                let waits = Cell::new(false);
                let origin = || {
                    waits.set(true);
                    Some(Origin::Tcp(Rc::clone(&client)))
                };
                match self.respond(query, LONGEST_ANSWER, origin, false) {
                    Some(octets) => client.write(&octets),
                    None if waits.get() => client.waiting.set(client.waiting.get() + 1),
                    None => return Ok(()),
                }
                let length = query.len();
                input.drain(..2 + length);
                idle = false;
            }
            if announced(&input).is_some_and(|length| length > request::LONGEST) {
                self.count(|c| (c.queries, c.oversized) = (c.queries + 1, c.oversized + 1));
                return Ok(());
            }
            if !idle {
                end = Instant::now() + self.limits.tcp_idle;
                yield_now().await;
            }
            let pending = client.output.borrow().len() > sent;
            if closed && !pending && client.waiting.get() == 0 {
                return Ok(());
            }
            let read = !closed && self.has_room(&client) && next_query(&input).is_none();
            tokio::select! {
                ready = stream.readable(), if read => {
                    ready?;
                    closed = read_some(stream, &mut input)?;
                }
                ready = stream.writable(), if pending => {
                    ready?;
                    let mut output = client.output.borrow_mut();
                    sent += write_some(stream, &output[sent..])?;
                    if sent == output.len() {
                        output.clear();
                        sent = 0;
                        end = Instant::now() + self.limits.tcp_idle;
                    }
                }
                () = client.wake.notified() => {}
                () = sleep_until(end) => return Ok(()),
            }
        }
    }

    fn has_room(&self, client: &Client) -> bool {
        client.waiting.get() < self.limits.tcp_waiting && client.output.borrow().len() < OUTPUT
    }
}

/// The length of the first query.
fn announced(input: &[u8]) -> Option<usize> {
    input
        .first_chunk()
        .map(|length| u16::from_be_bytes(*length).into())
}

/// The first query, where all of it was read.
fn next_query(input: &[u8]) -> Option<&[u8]> {
    input.get(2..2 + announced(input)?)
}

/// Reads what there is; whether the client has closed.
fn read_some(stream: &TcpStream, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; INPUT];
    match stream.try_read(&mut buffer) {
        Ok(length) => {
            input.extend_from_slice(&buffer[..length]);
            Ok(length == 0)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

fn write_some(stream: &TcpStream, output: &[u8]) -> io::Result<usize> {
    match stream.try_write(output) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
