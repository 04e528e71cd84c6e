// SPDX-License-Identifier: GPL-2.0

//! Changed-block tracking: which blocks of a disk in use have been written to since the last
//! backup.
//!
//! ```sh
//! modprobe rust_blk_changetrack
//! echo "changetrack granularity=64K" > /sys/block/vda/filter
//! cd /sys/kernel/debug/changetrack/vda
//! # At each backup, with the file system frozen:
//! echo switch > generation
//! cat bitmap
//! ```
//!
//! The layout of `bitmap` is in `Documentation/ABI/testing/debugfs-blk-changetrack`, how to use it
//! in `Documentation/block/blkfilter.rst`.
//!
//! There are two bitmaps of one bit a block, allocated at attach. One is being set, the other is
//! for reading. Switching clears the latter, makes writers use it, and waits until no writer can be
//! setting a bit in the other any more: all of them are in an RCU read section.
//!
//! When the device has grown, who reads one of the files makes both bitmaps longer. They never
//! move, as writers may be looking at them.
//!
//! A write that is on its way at a switch has marked its blocks in the generation that ends. With
//! `exact=1` it marks them in the one that then goes on as well, when it completes. That needs a
//! completion hook for each write; who freezes the file system, or stops the writers, for a switch
//! does not need it.

use kernel::{
    block::{
        bio::BlkStatus,
        filter::{
            unique_id,
            AttachInfo,
            BlkFilter,
            CompletedBio,
            Context,
            EndIo,
            FilteredBio,
            Handle,
            IncomingBio,
            OwnedBio,
            Verdict, //
        }, //
    },
    debugfs::{
        BinaryWriter,
        Dir,
        Scope, //
    },
    fmt,
    fs::file,
    module::this_module,
    module_blk_filter,
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        rcu::{
            self,
            synchronize_rcu, //
        },
        Arc,
        Mutex,
        SetOnce, //
    },
    uaccess::{
        UserSliceReader,
        UserSliceWriter, //
    }, //
};

module_blk_filter! {
    type: ChangeTrack,
    data: Shared {
        debugfs: Dir::of_module(c"changetrack", this_module::<crate::LocalModule>()),
        names: Arc::pin_init(new_mutex!(KVec::new()), GFP_KERNEL)?,
    },
    name: "rust_blk_changetrack",
    authors: ["blkfilter developers"],
    description: "Block device filter: changed-block tracking",
    license: "GPL",
    alias: ["blkfilter-changetrack"],
}

/// What is there once for all devices.
struct Shared {
    debugfs: Dir,
    names: Arc<Names>,
}

/// The devices that have a directory in debugfs. One that was removed still has its own when
/// another one gets its name before the filter has been released.
type Names = Mutex<KVec<CString>>;

/// A name that is in use until this is dropped.
struct Name {
    name: CString,
    names: Arc<Names>,
}

impl Name {
    fn claim(name: &CStr, names: &Arc<Names>) -> Result<Self> {
        // Both before it is in use: what fails must leave nothing.
        let (name, other) = (CString::try_from(name)?, CString::try_from(name)?);
        let mut used = names.lock();
        if used.iter().any(|used| **used == *name) {
            return Err(EBUSY);
        }
        used.push(other, GFP_KERNEL)?;
        drop(used);
        Ok(Self {
            name,
            names: names.clone(),
        })
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.names.lock().retain(|name| **name != *self.name);
    }
}

/// Bits of some blocks that follow each other.
type Words = KVVec<Atomic<u64>>;

/// More is not allocated in one piece.
const MOST_WORDS: usize = i32::MAX as usize / size_of::<u64>();

fn new_words(words: usize) -> Result<Words> {
    if words > MOST_WORDS {
        return Err(EFBIG);
    }
    // Many megabytes for a huge disk: nobody is to be killed for them.
    let flags = GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
    let mut bits = KVVec::with_capacity(words, flags)?;
    for _ in 0..words {
        bits.push(Atomic::new(0), flags)?;
    }
    Ok(bits)
}

/// How often a bitmap can become longer. Each time it is by a quarter, if there is that much.
const MORE: usize = 32;

/// One bit a block.
struct Bitmap {
    first: Words,
    more: KVec<SetOnce<Words>>,
}

impl Bitmap {
    fn new(words: usize) -> Result<Self> {
        let mut more = KVec::with_capacity(MORE, GFP_KERNEL)?;
        for _ in 0..MORE {
            more.push(SetOnce::new(), GFP_KERNEL)?;
        }
        Ok(Self {
            first: new_words(words)?,
            more,
        })
    }

    #[inline]
    fn get(&self, word: usize) -> Option<&Atomic<u64>> {
        match self.first.get(word) {
            None => self.get_more(word),
            bits => bits,
        }
    }

    #[inline(never)]
    fn get_more(&self, mut word: usize) -> Option<&Atomic<u64>> {
        for words in self.pieces() {
            match words.get(word) {
                None => word -= words.len(),
                bits => return bits,
            }
        }
        None
    }

    fn pieces(&self) -> impl Iterator<Item = &Words> {
        let more = self.more.iter().map_while(SetOnce::as_ref);
        Iterator::chain(core::iter::once(&self.first), more)
    }

    fn iter(&self) -> impl Iterator<Item = &Atomic<u64>> {
        self.pieces().flat_map(|words| words.iter())
    }

    fn len(&self) -> usize {
        self.pieces().map(|words| words.len()).sum()
    }

    /// Has at least so many words after this. To be called by one at a time.
    fn grow(&self, words: usize) -> Result {
        loop {
            let len = self.len();
            if words <= len {
                return Ok(());
            }
            let needed = (words - len).min(MOST_WORDS);
            let more = needed.max(len / 4).min(MOST_WORDS);
            let piece = new_words(more).or_else(|_| new_words(needed))?;
            let next = self.more.iter().find(|more| more.as_ref().is_none());
            next.ok_or(EFBIG)?.populate(piece);
        }
    }
}

/// A number of bytes, as in "65536", "64K" or "1M".
fn bytes(text: &str) -> Result<u32> {
    let (digits, unit) = if let Some(digits) = text.strip_suffix(['K', 'k']) {
        (digits, 1 << 10)
    } else if let Some(digits) = text.strip_suffix(['M', 'm']) {
        (digits, 1 << 20)
    } else {
        (text, 1)
    };
    let number: u32 = digits.parse().map_err(|_| EINVAL)?;
    number.checked_mul(unit).ok_or(EINVAL)
}

/// The words of a bitmap for some blocks.
fn nr_words(nr_blocks: u64) -> Result<usize> {
    usize::try_from(nr_blocks.div_ceil(64)).map_err(|_| EFBIG)
}

/// Number of blocks of a size given as a power of two, the last of which may be smaller.
fn nr_blocks(nr_sectors: u64, shift: u32) -> u64 {
    // Not a division: it may be one by 0, and is refused only when the tracker is initialized.
    ((nr_sectors << 9) + (1_u64 << shift) - 1) >> shift
}

/// What everything may have changed by. A set of these is a number with bit `why as u32`.
#[derive(Clone, Copy)]
enum Why {
    /// Before the first switch, or in a generation that began before the filter was on the device.
    First,
    /// The driver has set the size: the device may be another one behind the same name.
    Resized,
    /// Something was to change data that does not say where.
    Unplaced,
    /// There are bits for a part of the device only.
    Memory,
    /// With `exact`, a write could not be watched until it completes.
    Unwatched,
    /// The filter has left the device.
    Detached,
}

impl Why {
    const NAMES: [&'static str; 6] = [
        "first",
        "resized",
        "unplaced",
        "memory",
        "unwatched",
        "detached",
    ];

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What can be read now.
struct Frozen {
    /// Why nothing can be told about the generation that can be read.
    why: u32,
    /// The switches that this generation lies between, by numbers that do not come again. Before
    /// the first switch the attachment.
    began: u64,
    ended: u64,
}

/// In [`Tracker::current`]: writes mark again when they complete after a switch.
const EXACT: u64 = 1 << 63;

/// The state of one device.
#[pin_data]
struct Tracker {
    bitmaps: [Bitmap; 2],
    /// Counts the switches since attach. The lowest bit is the bitmap that is being set.
    current: Atomic<u64>,
    /// Size of a block, as a power of two, in bytes.
    shift: u32,
    /// Number of blocks that the device has now.
    nr_blocks: Atomic<u64>,
    /// No other attachment has this.
    id: u64,
    /// Of these that the generation has which is going on: [`Why::First`], [`Why::Resized`],
    /// [`Why::Unplaced`].
    void: [Atomic<u32>; 3],
    /// A write could not be watched until it completes, so `exact` does not hold.
    unwatched: Atomic<u32>,
    handle: Handle,
    #[pin]
    frozen: Mutex<Frozen>,
}

impl Tracker {
    fn new(info: AttachInfo<'_>) -> impl PinInit<Self, Error> {
        let (id, handle) = (unique_id(), info.handle());
        let (nr_sectors, mut granularity) = (info.device().nr_sectors(), 65536_u32);
        let mut current = 0;
        let parsed = info.parse_options(|key, value| {
            match (key, value) {
                ("granularity", _) => granularity = bytes(value)?,
                ("exact", "0") => current = 0,
                ("exact", "1") => current = EXACT,
                _ => return Err(EINVAL),
            }
            Ok(())
        });
        let shift = granularity.trailing_zeros();
        let valid = granularity.is_power_of_two() && (12..=20).contains(&shift);
        let checked = parsed.and(if valid { Ok(()) } else { Err(EINVAL) });

        let nr_blocks = nr_blocks(nr_sectors, shift);
        let words = nr_words(nr_blocks);
        try_pin_init!(Self {
            _: { checked?; },
            bitmaps: [Bitmap::new(words?)?, Bitmap::new(words?)?],
            current: Atomic::new(current),
            shift,
            nr_blocks: Atomic::new(nr_blocks),
            id,
            void: [const { Atomic::new(0) }; 3],
            unwatched: Atomic::new(0),
            handle,
            frozen <- new_mutex!(Frozen { why: Why::First.bit(), began: *id, ended: *id }),
        })
    }

    /// The bitmap that is being set when `current` is [`Tracker::current`].
    #[inline]
    fn active(&self, current: u64) -> &Bitmap {
        &self.bitmaps[(current & 1) as usize]
    }

    /// The other one.
    fn readable(&self) -> &Bitmap {
        self.active(self.current.load(Acquire) ^ 1)
    }

    /// Marks what a bio is going to change. Any context, no lock, no allocation.
    ///
    /// In an RCU read section that `current` was read in.
    #[inline]
    fn mark(&self, current: u64, bio: &FilteredBio) {
        if bio.size() != 0 {
            return self.mark_range(current, bio.sector(), bio.size());
        }
        // What changes data and has no sectors is for the whole device.
        if !bio.is_flush() {
            self.set_void(Why::Unplaced);
        }
    }

    fn set_void(&self, why: Why) {
        self.void[why as usize].store(1, Relaxed);
    }

    /// Marks some bytes, at least one, from a sector on.
    #[inline]
    fn mark_range(&self, current: u64, sector: u64, size: u32) {
        let start = sector << 9;
        let (first, last) = (
            start >> self.shift,
            (start + u64::from(size) - 1) >> self.shift,
        );
        let bitmap = self.active(current);
        if first == last {
            self.set(bitmap, first / 64, 1 << (first % 64));
        } else {
            self.set_all(bitmap, first, last);
        }
    }

    /// Sets the bits from `first` to `last`. Not inlined, as mostly there is but one, and that then
    /// needs no registers saved.
    #[inline(never)]
    fn set_all(&self, bitmap: &Bitmap, first: u64, last: u64) {
        for word in first / 64..=last / 64 {
            let from = first.max(word * 64) % 64;
            let to = last.min(word * 64 + 63) % 64;
            self.set(bitmap, word, (u64::MAX << from) & (u64::MAX >> (63 - to)));
        }
    }

    #[inline]
    fn set(&self, bitmap: &Bitmap, word: u64, mask: u64) {
        let bits = usize::try_from(word).ok().and_then(|word| bitmap.get(word));
        let Some(bits) = bits else {
            return self.set_void(Why::Resized);
        };
        // Most are marked already: do not write to what other CPUs read.
        let mut old = bits.load(Relaxed);
        while old & mask != mask {
            match bits.cmpxchg(old, old | mask, Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
    }

    /// Makes the bitmaps longer if the device has grown. Not at a switch: a file system may be
    /// frozen then, and memory that is allocated may have to wait for that.
    fn grow(&self) {
        let _frozen = self.frozen.lock();
        if let Ok(words) = nr_words(self.nr_blocks.load(Relaxed)) {
            for bitmap in &self.bitmaps {
                // `why` says so if there is no memory.
                let _ = bitmap.grow(words);
            }
        }
    }

    /// Starts a new generation: what was marked until now can be read from now on.
    fn switch(&self) {
        let mut frozen = self.frozen.lock();
        // What comes after this counts for the next generation as well.
        let mut why = 0;
        for (n, void) in self.void.iter().enumerate() {
            why |= (void.xchg(0, Relaxed) & 1) << n;
        }
        for bits in self.readable().iter() {
            bits.store(0, Relaxed);
        }
        // The files are there a moment before the filter is on the device.
        if !self.handle.is_attached() {
            self.set_void(Why::First);
        }
        // Whoever uses the other one sees it cleared.
        self.current.store(self.current.load(Relaxed) + 1, Release);
        // Bios that are being marked with the old one.
        synchronize_rcu();
        frozen.why = why | self.void_bits();
        frozen.began = frozen.ended;
        frozen.ended = unique_id();
    }

    /// Why everything may change in the generation that is going on, and so in the one before.
    fn void_bits(&self) -> u32 {
        let void = self.void.iter().enumerate();
        void.map(|(n, void)| (void.load(Relaxed) & 1) << n).sum()
    }

    /// Why nothing can be told about the generation that can be read; 0 if it can.
    ///
    /// So it is when the device has just been given another size or backing, as it need not be the
    /// same device any more; as long as there are too few bits; and after it is no longer the
    /// filter's own.
    fn why(&self, frozen: &Frozen) -> u32 {
        let mut why = frozen.why | self.void_bits();
        let words = nr_words(self.nr_blocks.load(Relaxed)).unwrap_or(usize::MAX);
        if self.bitmaps.iter().any(|bitmap| bitmap.len() < words) {
            why |= Why::Memory.bit();
        }
        if self.unwatched.load(Relaxed) != 0 {
            why |= Why::Unwatched.bit();
        }
        if !self.handle.is_attached() {
            why |= Why::Detached.bit();
        }
        why
    }

    /// Number of the generation that can be read.
    fn generation(&self) -> u64 {
        self.current.load(Relaxed) & !EXACT
    }

    /// The first 64 bytes of `bitmap`.
    fn header(&self, frozen: &Frozen, nr_blocks: u64, everything: bool) -> [u8; 64] {
        let mut header = [0; 64];
        let fields: [&[u8]; 9] = [
            b"BLKTRACK",
            &2_u32.to_le_bytes(),
            &self.shift.to_le_bytes(),
            &nr_blocks.to_le_bytes(),
            &self.id.to_le_bytes(),
            &self.generation().to_le_bytes(),
            &u64::from(everything).to_le_bytes(),
            &frozen.began.to_le_bytes(),
            &frozen.ended.to_le_bytes(),
        ];
        let bytes = fields.iter().flat_map(|field| field.iter());
        for (to, from) in header.iter_mut().zip(bytes) {
            *to = *from;
        }
        header
    }
}

/// The header and the bits of the generation that can be read.
impl BinaryWriter for Tracker {
    fn write_to_slice(
        &self,
        writer: &mut UserSliceWriter,
        offset: &mut file::Offset,
    ) -> Result<usize> {
        if *offset == 0 {
            self.grow();
        }
        let frozen = self.frozen.lock();
        let nr_blocks = self.nr_blocks.load(Relaxed);
        let everything = self.why(&frozen) != 0;
        let header = self.header(&frozen, nr_blocks, everything);
        let words = nr_words(nr_blocks)?;
        let mut done = 0;
        while !writer.is_empty() {
            let mut at = usize::try_from(*offset).map_err(|_| EINVAL)?;
            let copied = if at < header.len() {
                let copied = writer.write_slice_partial(&header, at)?;
                at += copied;
                copied
            } else {
                let word = (at - header.len()) / 8;
                if word >= words {
                    break;
                }
                let mut some = [0; 512];
                let nr = (words - word).min(some.len() / 8);
                for (n, bytes) in some.chunks_exact_mut(8).take(nr).enumerate() {
                    let bits = match self.readable().get(word + n) {
                        Some(bits) if !everything => bits.load(Relaxed),
                        _ => u64::MAX,
                    };
                    bytes.copy_from_slice(&bits.to_le_bytes());
                }
                let copied = writer.write_slice_partial(&some[..nr * 8], at % 8)?;
                at += copied;
                copied
            };
            if copied == 0 {
                break;
            }
            done += copied;
            *offset = at as file::Offset;
        }
        Ok(done)
    }
}

fn show(tracker: &Tracker, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    tracker.grow();
    let frozen = tracker.frozen.lock();
    let nr_blocks = tracker.nr_blocks.load(Relaxed);
    let why = tracker.why(&frozen);
    let marked = |bitmap: &Bitmap| -> u64 {
        bitmap
            .iter()
            .map(|bits| u64::from(bits.load(Relaxed).count_ones()))
            .sum()
    };
    let current = tracker.current.load(Relaxed);
    let changed = if why != 0 {
        nr_blocks
    } else {
        marked(tracker.readable())
    };
    writeln!(f, "id {}", tracker.id)?;
    writeln!(f, "generation {}", tracker.generation())?;
    writeln!(f, "everything {}", u8::from(why != 0))?;
    writeln!(f, "granularity {}", 1_u32 << tracker.shift)?;
    writeln!(f, "blocks {nr_blocks}")?;
    writeln!(f, "changed {changed}")?;
    let changing = if tracker.void_bits() != 0 || !tracker.handle.is_attached() {
        nr_blocks
    } else {
        marked(tracker.active(current))
    };
    writeln!(f, "changing {changing}")?;
    writeln!(f, "exact {}", u8::from(current & EXACT != 0))?;
    writeln!(f, "began {:#018x}", frozen.began)?;
    writeln!(f, "ended {:#018x}", frozen.ended)?;
    write!(f, "why")?;
    if why == 0 {
        write!(f, " -")?;
    }
    for (n, name) in Why::NAMES.iter().enumerate() {
        if why >> n & 1 != 0 {
            write!(f, " {name}")?;
        }
    }
    writeln!(f)
}

fn store(tracker: &Tracker, from: &mut UserSliceReader) -> Result {
    let mut text = [0; 16];
    let text = text.get_mut(..from.len()).ok_or(EINVAL)?;
    from.read_slice(text)?;
    if text.trim_ascii() != b"switch" {
        return Err(EINVAL);
    }
    tracker.switch();
    Ok(())
}

/// The filter on one device.
#[pin_data]
struct ChangeTrack {
    #[pin]
    tracker: Scope<Tracker>,
    /// Of the directory in debugfs, which is gone by the time that this is dropped.
    _name: Name,
}

#[vtable]
impl BlkFilter for ChangeTrack {
    const NAME: &'static CStr = c"changetrack";
    const OPTIONS: bool = true;
    const TAKES: bool = true;
    const ARMS: bool = true;
    type RegistrationData = Shared;

    fn attach(info: AttachInfo<'_>, shared: &Shared) -> impl PinInit<Self, Error> {
        let name = info.device_name();
        let claimed = Name::claim(name, &shared.names);
        try_pin_init!(Self {
            _name: claimed?,
            tracker <- shared.debugfs.scope(Tracker::new(info), name, |tracker, dir| {
                dir.read_binary_file(c"bitmap", tracker);
                dir.read_write_callback_file(c"generation", tracker, &show, &store);
            }),
        })
    }

    #[inline]
    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        if !bio.op().changes_data() {
            return bio.pass();
        }
        let tracker = &this.get_ref().tracker;
        // Before the bits are looked at: in that bitmap they are cleared.
        let current = tracker.current.load(Acquire);
        if current & EXACT != 0 {
            return this.get_ref().pass_exactly(current, bio);
        }
        tracker.mark(current, &bio);
        bio.pass()
    }

    fn process<'a>(this: Pin<&'a Self>, cx: &Context<'a, Self>, bio: OwnedBio<Self>) {
        let tracker = &this.get_ref().tracker;
        let guard = rcu::read_lock();
        let current = tracker.current.load(Acquire);
        tracker.mark(current, &bio);
        drop(guard);
        if let Err((bio, _)) = bio.resubmit_armed_wait(cx, current) {
            tracker.unwatched.store(1, Relaxed);
            bio.resubmit();
        }
    }

    fn resized(this: Pin<&Self>, nr_sectors: u64) {
        let tracker = &this.get_ref().tracker;
        let nr_blocks = nr_blocks(nr_sectors, tracker.shift);
        tracker.nr_blocks.store(nr_blocks, Relaxed);
        tracker.set_void(Why::Resized);
    }
}

impl ChangeTrack {
    /// Has a write marked again, should it complete in another generation.
    #[inline(never)]
    fn pass_exactly<'cb>(&self, current: u64, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        self.tracker.mark(current, &bio);
        if bio.size() == 0 {
            return bio.pass();
        }
        bio.pass_armed(current).unwrap_or_else(|(bio, _)| {
            // There is no memory for that at once.
            if bio.is_nowait() {
                return bio.end(BlkStatus::AGAIN);
            }
            bio.defer().unwrap_or_else(|bio| {
                // It is protected.
                self.tracker.unwatched.store(1, Relaxed);
                bio.pass()
            })
        })
    }
}

impl EndIo for ChangeTrack {
    /// What [`Tracker::current`] was when it was marked.
    type Data = u64;

    fn end_io(this: Pin<&Self>, bio: CompletedBio<'_>, marked_in: u64) {
        let tracker = &this.get_ref().tracker;
        let _guard = rcu::read_lock();
        // If it is the same the write is complete before the switch, and what is read afterwards
        // is what it wrote.
        let current = tracker.current.load(Acquire);
        if current != marked_in {
            tracker.mark_range(current, bio.sector(), bio.size());
        }
    }
}
