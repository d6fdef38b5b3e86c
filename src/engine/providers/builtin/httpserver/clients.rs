//! The state of each client of an address: its number of connections, and the memory of its
//! answers.
//!
//! A client with all the connections it may have gets one more all the same, as long as another of
//! them has nothing to do: the oldest of those that never asked for anything, or else the one that
//! rests the longest, is ended for it. So a client that opens connections and is silent shuts
//! nobody out, not even others behind the same address.
//!
//! A client with no connection left is forgotten, so there are never more entries than connections.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::pulse::{Ask, Pulse};

/// All clients of an address that is listened on.
#[derive(Debug, Default)]
pub struct Clients {
    // Held for lines without an await.
    of: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The number of the last connection.
    last: u64,
    of: HashMap<IpAddr, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    client: Arc<Client>,
    /// Its connections, oldest first.
    open: BTreeMap<u64, Arc<Pulse>>,
}

impl Entry {
    /// The connection that is missed least; nothing if all have something to do.
    fn idlest(&self) -> Option<u64> {
        let mut idle = self.open.iter().filter(|(_, pulse)| pulse.is_at_rest());
        let oldest = idle.clone().find(|(_, pulse)| !pulse.has_served()).or_else(|| idle.next());
        oldest.map(|(id, _)| *id)
    }
}

/// The state of one client.
#[derive(Debug, Default)]
pub struct Client {
    /// Bytes of answers that are not written yet.
    held: AtomicUsize,
}

impl Client {
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub fn hold(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn let_go(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The place of one connection among those of its client; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    clients: Arc<Clients>,
    address: IpAddr,
    id: u64,
    pub client: Arc<Client>,
}

impl Clients {
    /// Takes a place for one more connection; nothing if the client has `max` already, and none of
    /// them rests.
    pub fn seat(self: &Arc<Self>, address: IpAddr, max: usize, pulse: &Arc<Pulse>) -> Option<Seat> {
        let address = network(address);
        let mut table = self.of.lock();
        table.last += 1;
        let id = table.last;
        let entry = table.of.entry(address).or_default();
        if entry.open.len() >= max.max(1) {
            // Its place is free at once, although its task has yet to end it.
            let ended = entry.idlest().and_then(|id| entry.open.remove(&id))?;
            ended.ask(Ask::Abort);
        }
        entry.open.insert(id, Arc::clone(pulse));
        let client = Arc::clone(&entry.client);
        Some(Seat { clients: Arc::clone(self), address, id, client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.clients.of.lock();
        let Some(entry) = table.of.get_mut(&self.address) else { return };
        entry.open.remove(&self.id);
        if entry.open.is_empty() {
            table.of.remove(&self.address);
        }
    }
}

/// Returns the network that stands for a client: the owner of an IPv6 address mostly has the whole
/// network of it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn is_ended(pulse: &Pulse) -> bool {
        pulse.asked(&mut Context::from_waker(Waker::noop())) == Ask::Abort
    }

    #[test]
    fn a_client_has_so_many_places_and_others_have_theirs() {
        let clients = Arc::new(Clients::default());
        let pulse = Arc::new(Pulse::default());
        let busy = pulse.busy();
        let seat = |address: &str| clients.seat(address.parse().unwrap(), 2, &pulse);
        let first = [seat("10.0.0.1"), seat("10.0.0.1")];
        assert!(first.iter().all(Option::is_some) && seat("::ffff:10.0.0.1").is_none());
        assert!(seat("10.0.0.2").is_some());
        // All of a network of one's own count as one.
        let second = [seat("2001:db8::1"), seat("2001:db8::2")];
        assert!(second.iter().all(Option::is_some) && seat("2001:db8::3").is_none());
        assert!(seat("2001:db8:0:1::3").is_some());
        drop(first);
        assert!(seat("10.0.0.1").is_some());
        drop((second, busy));
        assert!(clients.of.lock().of.is_empty());
    }

    #[test]
    fn a_connection_at_rest_makes_way_and_first_one_that_never_asked() {
        let clients = Arc::new(Clients::default());
        let pulses: Vec<_> = (0..5).map(|_| Arc::new(Pulse::default())).collect();
        let seat = |n: usize| clients.seat("10.0.0.1".parse().unwrap(), 3, &pulses[n]);
        // One has been answered, one owes an answer still, one never asked.
        drop(pulses[0].busy());
        pulses[1].owes(1);
        let _seats = [seat(0), seat(1), seat(2)];
        let _fourth = seat(3).unwrap();
        assert_eq!([0, 1, 2].map(|n| is_ended(&pulses[n])), [false, false, true]);
        let _busy = pulses[3].busy();
        let _fifth = seat(4).unwrap();
        assert_eq!([0, 1, 3].map(|n| is_ended(&pulses[n])), [true, false, false]);
    }
}
