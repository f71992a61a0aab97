//! Who gets a place among the connections that are served at the same time.
//!
//! Strangers cannot be distinguished from clients before they have sent a request with the key, so
//! until then each address gets few places, and where all are taken the connection that has been
//! silent for longest is closed. The peer has places of its own, which strangers cannot take. What
//! was asked with the key keeps its place until it is answered.

use std::net::IpAddr;

/// Connections that have not proved anything yet, at most; further ones only for those that are
/// known.
const STRANGERS: usize = 48;
/// Of one address among these: a host asks for each of its mounts.
const OF_ONE_ADDRESS: usize = 8;
/// Of the peer: it asks one thing at a time, and others may use its address.
const OF_THE_PEER: usize = 32;
/// Connections at most, besides the peer's.
const ALL: usize = 128;

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its other end.
    pub(crate) from: IpAddr,
    /// That is the peer's address.
    pub(crate) peer: bool,
    /// It has the key.
    pub(crate) proved: bool,
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is served.
    Take,
    /// It is served, and the one at this index, an older one, is closed.
    InPlaceOf(usize),
    /// It is closed.
    Refuse,
}

/// Whether a connection from `from` is served beside `places`, which are in the order of their
/// coming. `peer`: it is the peer's address.
pub(crate) fn admit(places: &[Place], from: IpAddr, peer: bool) -> Admission {
    // Those that compete with it for places.
    let rivals = |p: &Place| !p.proved && p.peer == peer;
    let own = places.iter().filter(|p| rivals(p) && p.from == from).count();
    let oldest = |which: &dyn Fn(&Place) -> bool| places.iter().position(which).map_or(Admission::Refuse, Admission::InPlaceOf);
    if own >= if peer { OF_THE_PEER } else { OF_ONE_ADDRESS } {
        return oldest(&|p| rivals(p) && p.from == from);
    }
    if !peer && places.iter().filter(|p| rivals(p)).count() >= STRANGERS {
        return oldest(&rivals);
    }
    let full = !peer && places.iter().filter(|p| !p.peer).count() >= ALL;
    if full { Admission::Refuse } else { Admission::Take }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn silent(from: IpAddr) -> Place {
        Place { from, peer: false, proved: false }
    }

    #[test]
    fn one_address_gets_few() {
        let mut places: Vec<Place> = (0..OF_ONE_ADDRESS).map(|_| silent(of(1))).collect();
        places.insert(0, silent(of(2)));
        assert_eq!(admit(&places, of(1), false), Admission::InPlaceOf(1), "the oldest of its own");
        assert_eq!(admit(&places, of(3), false), Admission::Take);
        places.iter_mut().for_each(|p| p.proved = true);
        assert_eq!(admit(&places, of(1), false), Admission::Take, "those that have the key do not count");
    }

    #[test]
    fn many_addresses_cannot_shut_others_out() {
        let mut places: Vec<Place> = (0..STRANGERS).map(|n| silent(of(n as u8 / 4))).collect();
        assert_eq!(admit(&places, of(200), false), Admission::InPlaceOf(0));
        places[0].proved = true;
        places.push(silent(of(77)));
        assert_eq!(admit(&places, of(200), false), Admission::InPlaceOf(1), "one with the key is not closed");
        assert_eq!(admit(&places, of(200), true), Admission::Take, "the peer");
    }

    #[test]
    fn there_is_an_end() {
        let proved = Place { from: of(1), peer: false, proved: true };
        assert_eq!(admit(&vec![proved; ALL], of(2), false), Admission::Refuse);
        assert_eq!(admit(&vec![proved; ALL], of(9), true), Admission::Take);
        let peer = Place { from: of(9), peer: true, proved: false };
        let mut places = vec![peer; OF_THE_PEER];
        places.insert(0, silent(of(1)));
        assert_eq!(admit(&places, of(9), true), Admission::InPlaceOf(1), "of its own, not of others");
        assert_eq!(admit(&places, of(2), false), Admission::Take);
    }
}
