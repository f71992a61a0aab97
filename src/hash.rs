//! The hash of names, paths and handles: what strangers choose.
//!
//! Promises: who does not know this process's key cannot choose names that fall into one place of a
//! table, so a table of n of them takes n steps to fill. The key is the kernel's (`getrandom(2)`,
//! by the standard library), another one for each process, and no hash leaves it.
//!
//! `rustc-hash` has no key: names of sixteen bytes that begin with the first of its constants all
//! have one hash (30,000 of them took 3.5 s in place of 0.07 s). It stays where numbers of our own
//! are looked up.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use hashbrown::HashSet;

struct Key {
    own: u64,
    shared: SharedSeed,
}

static KEY: LazyLock<Key> = LazyLock::new(|| {
    let random = || RandomState::new().build_hasher().finish();
    Key { own: random(), shared: SharedSeed::from_u64(random()) }
});

/// Hashes by the process's key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keyed;

impl BuildHasher for Keyed {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> FoldHasher<'static> {
        let key = &*KEY;
        FoldHasher::with_seed(key.own, &key.shared)
    }
}

/// A set of what strangers name.
pub(crate) type KeyedSet<T> = HashSet<T, Keyed>;

#[inline]
pub(crate) fn of(value: impl Hash) -> u64 {
    Keyed.hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that all have one hash where there is no key: the first constant of rustc-hash 2, then
    /// anything.
    fn colliding(n: u64) -> impl Iterator<Item = Vec<u8>> {
        let begin = [0xd3, 0x08, 0xa3, 0x85, 0x88, 0x6a, 0x3f, 0x24];
        // No byte may be a slash or zero.
        let rest = move |i: u64| -> Vec<u8> { (0..8).map(|at| 0x30 + (i >> (5 * at) & 0x1f) as u8).collect() };
        (0..n).map(move |i| [&begin[..], &rest(i)].concat())
    }

    /// The most of `names` that fall into one of as many places as there are names.
    fn fullest(names: impl Iterator<Item = Vec<u8>>, places: usize, hash: impl Fn(&[u8]) -> u64) -> usize {
        let mut load = vec![0usize; places];
        names.for_each(|name| load[hash(&name) as usize % places] += 1);
        load.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn chosen_names_spread_like_others() {
        let unkeyed = |name: &[u8]| {
            let mut hasher = rustc_hash::FxHasher::default();
            (7u32, name).hash(&mut hasher);
            hasher.finish()
        };
        let ordinary = |n: u64| (0..n).map(|i| format!("name-{i:011}").into_bytes());
        const N: u64 = 1 << 15;
        assert_eq!(fullest(colliding(N), N as usize, unkeyed), N as usize, "the attack is one");
        // Of n balls in n boxes the fullest holds 8 or so; 30 is out of reach of chance.
        for (what, most) in [
            ("chosen", fullest(colliding(N), N as usize, |name| of((7u32, name)))),
            ("ordinary", fullest(ordinary(N), N as usize, |name| of((7u32, name)))),
            ("paths", fullest(colliding(N), N as usize, |name| of(crate::path::RelPath::from_normal(name)))),
        ] {
            assert!(most < 30, "{what}: {most} in one place");
        }
    }

    #[test]
    fn a_borrowed_path_is_found_by_its_bytes() {
        let set: KeyedSet<crate::path::RelPath> = colliding(100).map(crate::path::RelPath::from_normal).collect();
        assert!(colliding(100).all(|name| set.contains(&name[..])) && !set.contains(&b"other"[..]));
    }
}
