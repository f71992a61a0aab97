//! Decoder against encoder, against hostile bytes, and against a table of faults.

use super::super::records::Corrupt;
use super::*;
use proptest::prelude::*;

const FILE: Fid<'static> = Fid { fs: FsId(7), kind: 1, handle: &[1, 2, 3, 4, 5, 6, 7, 8] };
const DIR: Fid<'static> = Fid { fs: FsId(7), kind: 1, handle: &[9, 9, 9, 9, 0, 0, 0, 1] };
const NONE: FanEvent<'static> = FanEvent { mask: 0, pid: 1, dir: None, old: None, new: None, child: None, skipped: 0 };

fn created() -> FanEvent<'static> {
    FanEvent { mask: libc::FAN_CREATE, dir: Some(Place { fid: DIR, name: b"name" }), child: Some(FILE), ..NONE }
}

fn encoded(events: &[FanEvent<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        encode_event(&mut out, event);
    }
    out
}

#[test]
fn the_layout_is_the_kernels() {
    assert_eq!(HEAD_BYTES, size_of::<libc::fanotify_event_metadata>());
    assert_eq!(VERSION, libc::FANOTIFY_METADATA_VERSION);
    assert_eq!(
        FID_HEAD_BYTES,
        size_of::<libc::fanotify_event_info_header>() + size_of::<libc::fsid_t>() + size_of::<libc::file_handle>()
    );
}

#[test]
fn kinds_of_events() {
    let place = |name| Some(Place { fid: DIR, name });
    for (situation, event) in [
        ("created file with its own handle", created()),
        ("kernel before 5.17: no child", FanEvent { child: None, ..created() }),
        ("attributes of a directory itself", FanEvent { mask: libc::FAN_ATTRIB | libc::FAN_ONDIR, dir: place(b"."), ..NONE }),
        ("directory without a name", FanEvent { mask: libc::FAN_ATTRIB, dir: place(b""), ..NONE }),
        ("rename", FanEvent { mask: libc::FAN_RENAME, old: place(b"a"), new: place(b"\xff\n#"), child: Some(FILE), ..NONE }),
        (
            "rename of a directory, new place only",
            FanEvent { mask: libc::FAN_RENAME | libc::FAN_ONDIR, new: place(b"b"), ..NONE },
        ),
        ("overflow", FanEvent { mask: libc::FAN_Q_OVERFLOW, pid: 0, ..NONE }),
        ("longest name", FanEvent { dir: place(&[b'x'; 255]), ..NONE }),
        ("empty handle", FanEvent { child: Some(Fid { handle: &[], kind: 0xff, ..FILE }), ..NONE }),
        ("records of a later kernel", FanEvent { skipped: 3, ..created() }),
    ] {
        let buf = encoded(&[event, created()]);
        assert_eq!(events(&buf).collect::<Vec<_>>(), [Ok(event), Ok(created())], "{situation}");
    }
}

#[test]
fn nothing_in_nothing_out() {
    assert_eq!(events(&[]).next(), None);
}

/// One byte or field of a good record is made bad; the record before it still comes through, and
/// nothing after it.
#[test]
fn faults_end_the_iteration() {
    let good = encoded(&[created()]);
    let (head, info) = (good.len(), good.len() + HEAD_BYTES);
    let set = |at: usize, bytes: &[u8]| {
        let mut buf = encoded(&[created(), created(), created()]);
        buf[at..at + bytes.len()].copy_from_slice(bytes);
        buf
    };
    for (what, buf) in [
        ("shorter than an event's head", encoded(&[created()]).into_iter().chain([0; 23]).collect()),
        ("unknown version of the event's head", set(head + 4, &[4])),
        ("metadata_len is shorter than an event's head", set(head + 6, &23u16.to_ne_bytes())),
        ("event_len is shorter than metadata_len", set(head, &23u32.to_ne_bytes())),
        ("event_len is shorter than metadata_len", set(head, &0u32.to_ne_bytes())),
        ("event_len is longer than the buffer", set(head, &u32::MAX.to_ne_bytes())),
        ("carries a descriptor, which no group with file ids reports", set(head + 16, &5i32.to_ne_bytes())),
        ("an info record's length is shorter than its head", set(info + 2, &3u16.to_ne_bytes())),
        ("an info record's length is shorter than its head", set(info + 2, &0u16.to_ne_bytes())),
        ("an info record is longer than its event", set(info + 2, &u16::MAX.to_ne_bytes())),
        ("an info record is too short for a file id", set(info + 2, &19u16.to_ne_bytes())),
        ("a file handle is longer than its info record", set(info + 12, &u32::MAX.to_ne_bytes())),
        ("a name does not end in NUL", set(info + FID_HEAD_BYTES + 8, b"nameXXXX")),
    ] {
        let mut found = events(&buf);
        assert_eq!(found.next(), Some(Ok(created())), "{what}");
        assert_eq!(found.next(), Some(Err(Corrupt { source_name: "fanotify", at: head, what })));
        assert_eq!(found.next(), None, "{what}");
    }
}

type OwnedPlace = (u64, i32, Vec<u8>, Vec<u8>);

fn some_place() -> impl Strategy<Value = Option<OwnedPlace>> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    let name = prop::collection::vec(1u8.., 0..300);
    prop::option::of((any::<u64>(), any::<i32>(), bytes(129), name))
}

fn borrowed(place: &Option<OwnedPlace>) -> Option<Place<'_>> {
    place.as_ref().map(|(fs, kind, handle, name)| Place { fid: Fid { fs: FsId(*fs), kind: *kind, handle }, name })
}

type OwnedEvent = (u64, i32, [Option<OwnedPlace>; 4], u32);

fn some_event() -> impl Strategy<Value = OwnedEvent> {
    (any::<u64>(), any::<i32>(), [some_place(), some_place(), some_place(), some_place()], 0u32..3)
}

fn lend(event: &OwnedEvent) -> FanEvent<'_> {
    let (mask, pid, [dir, old, new, child], skipped) = event;
    let (dir, old, new) = (borrowed(dir), borrowed(old), borrowed(new));
    FanEvent { mask: *mask, pid: *pid, dir, old, new, child: borrowed(child).map(|place| place.fid), skipped: *skipped }
}

/// What must hold for any bytes: it ends, errors come last and only once, and every slice lies
/// inside the buffer.
fn walk(buf: &[u8]) {
    let inside = |part: &[u8]| buf.as_ptr_range().start <= part.as_ptr() && part.as_ptr_range().end <= buf.as_ptr_range().end;
    let mut bytes_of_heads = 0;
    let mut failed = false;
    for event in events(buf) {
        assert!(!failed, "an event after a corrupt one");
        match event {
            Ok(event) => {
                bytes_of_heads += HEAD_BYTES;
                for place in [event.dir, event.old, event.new].into_iter().flatten() {
                    assert!(!place.name.contains(&0) && place.fid.handle.len() <= buf.len());
                    assert!(place.name.is_empty() || inside(place.name));
                    assert!(place.fid.handle.is_empty() || inside(place.fid.handle));
                }
            }
            Err(corrupt) => {
                failed = true;
                assert!(corrupt.at < buf.len());
            }
        }
    }
    assert!(bytes_of_heads <= buf.len(), "more events than fit");
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(given in prop::collection::vec(some_event(), 0..6)) {
        let given: Vec<_> = given.iter().map(lend).collect();
        let buf = encoded(&given);
        let decoded: Result<Vec<_>, _> = events(&buf).collect();
        prop_assert_eq!(decoded, Ok(given));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(buf in prop::collection::vec(any::<u8>(), 0..400)) {
        walk(&buf);
    }

    /// Good records with some bytes changed and the end cut off: nearer to a real fault than noise,
    /// and reaches deeper.
    #[test]
    fn damaged_records_are_decoded_or_refused(
        given in prop::collection::vec(some_event(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let given: Vec<_> = given.iter().map(lend).collect();
        let mut buf = encoded(&given);
        for (at, byte) in damage {
            let at = at.index(buf.len());
            buf[at] = byte;
        }
        buf.truncate(cut.index(buf.len() + 1));
        walk(&buf);
    }
}
