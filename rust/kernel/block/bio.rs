// SPDX-License-Identifier: GPL-2.0

//! Block I/O descriptors.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h).

// Only filters use all of it.
#![cfg_attr(not(CONFIG_BLK_FILTER), allow(dead_code))]

use crate::{
    bindings,
    bits::bit_u32,
    error::to_result,
    fmt,
    impl_flags,
    prelude::*,
    types::Opaque, //
};
use core::{
    iter::FusedIterator,
    marker::PhantomData,
    ptr::NonNull,
    str::FromStr, //
};

/// The operation of a bio.
///
/// Values that this kernel's C code knows and this type does not name stay representable.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::Op;
///
/// assert!(Op::WRITE.changes_data());
/// assert!(Op::DISCARD.changes_data());
/// assert!(!Op::READ.changes_data());
/// assert!(!Op::ZONE_OPEN.changes_data());
/// assert!(Op::WRITE.has_data());
/// assert!(!Op::WRITE_ZEROES.has_data());
/// assert_ne!(Op::WRITE.as_raw(), Op::WRITE_ZEROES.as_raw());
/// assert_eq!("write_zeroes".parse(), Ok(Op::WRITE_ZEROES));
/// assert_eq!("WRITE".parse::<Op>(), Err(EINVAL));
///
/// // A counter for each operation.
/// let mut counts = [0; Op::LIMIT];
/// counts[Op::DISCARD.as_index()] += 1;
/// assert_eq!(Op::NAMED.map(|op| counts[op.as_index()]).iter().sum::<i32>(), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Op(u32);

impl Op {
    /// Read sectors from the device.
    pub const READ: Self = Self(bindings::req_op_REQ_OP_READ);
    /// Write sectors to the device. Without sectors and with [`ReqFlag::Preflush`]: flush it.
    pub const WRITE: Self = Self(bindings::req_op_REQ_OP_WRITE);
    /// Discard sectors: they hold nothing of value any more.
    pub const DISCARD: Self = Self(bindings::req_op_REQ_OP_DISCARD);
    /// Discard sectors so that their content cannot be got back.
    pub const SECURE_ERASE: Self = Self(bindings::req_op_REQ_OP_SECURE_ERASE);
    /// Write zeroes without transferring any.
    pub const WRITE_ZEROES: Self = Self(bindings::req_op_REQ_OP_WRITE_ZEROES);
    /// Write at the write pointer of a zone.
    pub const ZONE_APPEND: Self = Self(bindings::req_op_REQ_OP_ZONE_APPEND);
    /// Open a zone.
    pub const ZONE_OPEN: Self = Self(bindings::req_op_REQ_OP_ZONE_OPEN);
    /// Close a zone.
    pub const ZONE_CLOSE: Self = Self(bindings::req_op_REQ_OP_ZONE_CLOSE);
    /// Move the write pointer of a zone to its end.
    pub const ZONE_FINISH: Self = Self(bindings::req_op_REQ_OP_ZONE_FINISH);
    /// Move the write pointer of a zone to its start: its data is gone.
    pub const ZONE_RESET: Self = Self(bindings::req_op_REQ_OP_ZONE_RESET);
    /// [`ZONE_RESET`](Self::ZONE_RESET) of all zones of the device.
    pub const ZONE_RESET_ALL: Self = Self(bindings::req_op_REQ_OP_ZONE_RESET_ALL);

    /// All operations that have a constant here.
    pub const NAMED: [Self; 11] = [
        Self::READ,
        Self::WRITE,
        Self::DISCARD,
        Self::SECURE_ERASE,
        Self::WRITE_ZEROES,
        Self::ZONE_APPEND,
        Self::ZONE_OPEN,
        Self::ZONE_CLOSE,
        Self::ZONE_FINISH,
        Self::ZONE_RESET,
        Self::ZONE_RESET_ALL,
    ];

    /// What [`as_index`](Self::as_index) is always below.
    pub const LIMIT: usize = 64;

    /// The operation in a `bi_opf`.
    #[inline]
    pub(super) const fn from_opf(opf: bindings::blk_opf_t) -> Self {
        Self(opf & bindings::REQ_OP_MASK)
    }

    /// Returns the number C knows the operation by, one of `enum req_op`.
    #[inline]
    pub const fn as_raw(self) -> u32 {
        self.0
    }

    /// Returns an index for an array of [`LIMIT`](Self::LIMIT) elements, one for each operation.
    #[inline]
    pub const fn as_index(self) -> usize {
        static_assert!(bindings::req_op_REQ_OP_LAST as usize <= Op::LIMIT);
        // CAST: `usize` has at least 32 bits where there is a block layer.
        self.0 as usize % Self::LIMIT
    }

    /// The name of the constant in lower case.
    const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::READ => "read",
            Self::WRITE => "write",
            Self::DISCARD => "discard",
            Self::SECURE_ERASE => "secure_erase",
            Self::WRITE_ZEROES => "write_zeroes",
            Self::ZONE_APPEND => "zone_append",
            Self::ZONE_OPEN => "zone_open",
            Self::ZONE_CLOSE => "zone_close",
            Self::ZONE_FINISH => "zone_finish",
            Self::ZONE_RESET => "zone_reset",
            Self::ZONE_RESET_ALL => "zone_reset_all",
            _ => return None,
        })
    }

    /// Returns whether the operation can change what is read back from the device later.
    ///
    /// True for every operation that does not obviously leave the data alone, so for one this
    /// type does not name too.
    #[inline]
    pub const fn changes_data(self) -> bool {
        !matches!(self, Self::READ | Self::ZONE_OPEN | Self::ZONE_CLOSE)
    }

    /// Returns whether a bio of this operation carries data, if it is not empty.
    ///
    /// False for an operation this type does not name.
    #[inline]
    pub const fn has_data(self) -> bool {
        matches!(self, Self::READ | Self::WRITE | Self::ZONE_APPEND)
    }
}

/// By the name of the constant in lower case, such as `write_zeroes`.
impl FromStr for Op {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let named = |op: &&Self| op.name() == Some(name);
        Self::NAMED.iter().find(named).copied().ok_or(EINVAL)
    }
}

/// The name that can be parsed, or a number if there is no constant.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl_flags!(
    /// The flags of a bio, `REQ_*` in C.
    #[derive(Debug, Clone, Default, Copy, PartialEq, Eq)]
    pub struct ReqFlags(u32);

    /// One flag of a bio.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ReqFlag {
        /// Somebody waits for the bio.
        Sync = bit_u32(bindings::req_flag_bits___REQ_SYNC),

        /// Metadata of a file system.
        Meta = bit_u32(bindings::req_flag_bits___REQ_META),

        /// The data is on stable storage when the bio completes.
        Fua = bit_u32(bindings::req_flag_bits___REQ_FUA),

        /// The device's write cache is flushed first.
        Preflush = bit_u32(bindings::req_flag_bits___REQ_PREFLUSH),

        /// Read-ahead: may fail at any time.
        Rahead = bit_u32(bindings::req_flag_bits___REQ_RAHEAD),

        /// Background I/O.
        Background = bit_u32(bindings::req_flag_bits___REQ_BACKGROUND),

        /// The submitter would rather have [`BlkStatus::AGAIN`] than wait.
        Nowait = bit_u32(bindings::req_flag_bits___REQ_NOWAIT),

        /// The submitter polls for the completion.
        Polled = bit_u32(bindings::req_flag_bits___REQ_POLLED),

        /// Swap I/O.
        Swap = bit_u32(bindings::req_flag_bits___REQ_SWAP),

        /// The write must not be torn.
        Atomic = bit_u32(bindings::req_flag_bits___REQ_ATOMIC),
    }
);

impl ReqFlags {
    /// The flags in a `bi_opf`.
    #[inline]
    pub(super) fn from_opf(opf: bindings::blk_opf_t) -> Self {
        // INVARIANT of the type made by `impl_flags!`: none, any number is a set of flags.
        Self(opf & !bindings::REQ_OP_MASK)
    }
}

/// How a bio ended, `blk_status_t` in C.
///
/// An [`Error`] converts to the status that the block layer has for it, [`BlkStatus::IOERR`] if it
/// has none.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::BlkStatus;
///
/// assert_eq!(BlkStatus::from(ENOSPC), BlkStatus::NOSPC);
/// assert_eq!(BlkStatus::from(EIO), BlkStatus::IOERR);
/// // Something no block device fails with.
/// assert_eq!(BlkStatus::from(ENOTTY), BlkStatus::IOERR);
///
/// assert_eq!(BlkStatus::OK.to_result(), Ok(()));
/// assert_eq!(BlkStatus::NOSPC.to_result(), Err(ENOSPC));
/// assert_ne!(BlkStatus::NOSPC.as_raw(), BlkStatus::OK.as_raw());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct BlkStatus(bindings::blk_status_t);

impl BlkStatus {
    /// Success.
    pub const OK: Self = Self(0);
    /// The device cannot do this; `EOPNOTSUPP`.
    pub const NOTSUPP: Self = Self(bindings::BLK_STS_NOTSUPP);
    /// The device did not answer in time; `ETIMEDOUT`.
    pub const TIMEOUT: Self = Self(bindings::BLK_STS_TIMEOUT);
    /// No space left; `ENOSPC`.
    pub const NOSPC: Self = Self(bindings::BLK_STS_NOSPC);
    /// The sectors cannot be read; `ENODATA`.
    pub const MEDIUM: Self = Self(bindings::BLK_STS_MEDIUM);
    /// The data fails its integrity check; `EILSEQ`.
    pub const PROTECTION: Self = Self(bindings::BLK_STS_PROTECTION);
    /// Out of memory or another resource; `ENOMEM`.
    pub const RESOURCE: Self = Self(bindings::BLK_STS_RESOURCE);
    /// Any other error; `EIO`.
    pub const IOERR: Self = Self(bindings::BLK_STS_IOERR);
    /// It would have to wait. Only for a bio with [`ReqFlag::Nowait`]; `EAGAIN`.
    pub const AGAIN: Self = Self(bindings::BLK_STS_AGAIN);
    /// The device is offline; `ENODEV`.
    pub const OFFLINE: Self = Self(bindings::BLK_STS_OFFLINE);
    /// The bio makes no sense; `EINVAL`.
    pub const INVAL: Self = Self(bindings::BLK_STS_INVAL);

    /// The status with the number `raw` in C.
    #[inline]
    pub(super) const fn from_raw(raw: bindings::blk_status_t) -> Self {
        Self(raw)
    }

    /// Returns the number C knows the status by, one of `BLK_STS_*`.
    #[inline]
    pub const fn as_raw(self) -> bindings::blk_status_t {
        self.0
    }

    /// Returns the error that user space gets to see for the status.
    pub fn to_result(self) -> Result {
        // SAFETY: The function looks up a number and knows what to do with an unknown one.
        to_result(unsafe { bindings::blk_status_to_errno(self.0) })
    }
}

impl From<Error> for BlkStatus {
    fn from(error: Error) -> Self {
        match Self(error.to_blk_status()) {
            // It is for the device mapper's own use, nobody else may end a bio with it.
            Self(bindings::BLK_STS_DM_REQUEUE) => Self::IOERR,
            status => status,
        }
    }
}

impl From<Result> for BlkStatus {
    fn from(result: Result) -> Self {
        result.map_or_else(Self::from, |()| Self::OK)
    }
}

impl fmt::Display for BlkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_result() {
            Ok(()) => f.write_str("OK"),
            Err(error) => fmt::Debug::fmt(&error, f),
        }
    }
}

/// A block I/O descriptor, borrowed from whoever has to complete it.
///
/// There is no reference counting: the memory may be on the submitter's stack. There is no `&mut`
/// either, as swapping two bios would tear them out of the lists they are on.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::{
///     Bio,
///     Op,
///     ReqFlag, //
/// };
///
/// /// Whether it is a write that has to be on stable storage when it completes.
/// fn is_durable(bio: &Bio) -> bool {
///     bio.op() == Op::WRITE && bio.flags().contains(ReqFlag::Fua)
/// }
///
/// /// What is left of a budget of bytes, and whether the bio can wait if nothing is.
/// fn charge(bio: &Bio, left: u32) -> (Option<u32>, bool) {
///     (left.checked_sub(bio.size()), !bio.is_nowait())
/// }
/// ```
///
/// # Invariants
///
/// The `struct bio` is valid, and nobody else changes, submits or completes it while it is
/// borrowed.
#[repr(transparent)]
pub struct Bio(Opaque<bindings::bio>);

impl Bio {
    /// Creates a reference from a pointer.
    ///
    /// # Safety
    ///
    /// For the duration of `'a`, `ptr` must point to a valid `struct bio` that nobody else
    /// changes, submits or completes.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::bio) -> &'a Self {
        // CAST: `Self` is a transparent wrapper of `Opaque<bindings::bio>`.
        // SAFETY: By the safety requirements the pointer is valid for `'a`.
        unsafe { &*ptr.cast() }
    }

    /// Returns the `struct bio`.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::bio {
        self.0.get()
    }

    #[inline]
    fn opf(&self) -> u32 {
        // SAFETY: By the type invariants the bio is valid and nobody changes it.
        unsafe { (*self.as_raw()).bi_opf }
    }

    /// Returns the position of the bio as the block layer has it now, relative to the disk, not to
    /// a partition.
    #[inline]
    pub(super) fn iter(&self) -> bindings::bvec_iter {
        // A copy: the C structure is packed, so there are no references to its fields.
        // SAFETY: By the type invariants the bio is valid and nobody changes it.
        unsafe { (*self.as_raw()).bi_iter }
    }

    /// Returns the operation.
    #[inline]
    pub fn op(&self) -> Op {
        Op::from_opf(self.opf())
    }

    /// Returns the flags.
    #[inline]
    pub fn flags(&self) -> ReqFlags {
        ReqFlags::from_opf(self.opf())
    }

    /// Returns the length in bytes.
    ///
    /// It may be 0: a flush without data. For operations without data, such as discards, it is
    /// the length of the range they are for.
    #[inline]
    pub fn size(&self) -> u32 {
        self.iter().bi_size
    }

    /// Returns the length in sectors of 512 bytes, see [`size`](Self::size).
    #[inline]
    pub fn nr_sectors(&self) -> u32 {
        self.size() >> super::SECTOR_SHIFT
    }

    /// Returns whether the submitter would rather have [`BlkStatus::AGAIN`] than wait.
    #[inline]
    pub fn is_nowait(&self) -> bool {
        self.flags().contains(ReqFlag::Nowait)
    }

    /// Returns whether this is an empty flush: a write of nothing that flushes the device's write
    /// cache.
    #[inline]
    pub fn is_flush(&self) -> bool {
        self.size() == 0 && self.flags().contains(ReqFlag::Preflush)
    }
}

/// A stretch of the data of a bio that lies within one page.
///
/// The data may be changed at any time by whoever submitted the bio, from user space too. So it
/// can be copied, but there is no reference to it.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::Segment;
///
/// fn first_byte(segment: &Segment<'_>) -> Option<u8> {
///     let mut byte = [0];
///     (segment.copy_to_slice(&mut byte) == 1).then_some(byte[0])
/// }
/// ```
///
/// # Invariants
///
/// The vector describes memory that is valid for `'a`, within one page.
pub struct Segment<'a> {
    vec: bindings::bio_vec,
    _data: PhantomData<&'a [u8]>,
}

impl Segment<'_> {
    /// Returns the length in bytes, never 0.
    #[inline]
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        // CAST: At most the size of a page.
        self.vec.bv_len as usize
    }

    /// Copies the start of the segment to `to`, as much as fits; the number of bytes copied.
    ///
    /// Any context.
    pub fn copy_to_slice(&self, to: &mut [u8]) -> usize {
        let len = to.len().min(self.len());
        // CAST: An offset in a page.
        let offset = self.vec.bv_offset as usize;
        // SAFETY: By the type invariants there are `len` bytes at the offset, all in one page.
        // There are as many at `to`.
        unsafe {
            bindings::memcpy_from_page(to.as_mut_ptr().cast(), self.vec.bv_page, offset, len)
        };
        len
    }

    /// Copies the start of `from` to the segment, as much as fits; the number of bytes copied.
    fn copy_from_slice(&self, from: &[u8]) -> usize {
        let len = from.len().min(self.len());
        // CAST: An offset in a page.
        let offset = self.vec.bv_offset as usize;
        // SAFETY: As in `copy_to_slice`. No reference to the data exists.
        unsafe { bindings::memcpy_to_page(self.vec.bv_page, offset, from.as_ptr().cast(), len) };
        len
    }

    /// Sets all of the segment to `byte`.
    fn fill(&self, byte: u8) {
        // CAST: An offset in a page.
        let (offset, len) = (self.vec.bv_offset as usize, self.len());
        // SAFETY: As in `copy_from_slice`.
        unsafe { bindings::memset_page(self.vec.bv_page, offset, byte.into(), len) };
    }
}

/// The [`Segment`]s of a bio, in order.
///
/// # Invariants
///
/// `bio` is valid for `'a`, and `iter` is a position in its data.
pub struct Segments<'a> {
    bio: NonNull<bindings::bio>,
    iter: bindings::bvec_iter,
    _data: PhantomData<&'a [u8]>,
}

impl Segments<'_> {
    /// Skips `bytes`, at most all that is left.
    fn advance(&mut self, bytes: usize) {
        // CAST: It is not more than `bi_size`.
        let bytes = bytes.min(self.iter.bi_size as usize) as u32;
        // SAFETY: By the type invariants, and there is as much left.
        unsafe { bindings::bio_advance_iter(self.bio.as_ptr(), &mut self.iter, bytes) };
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        if self.iter.bi_size == 0 {
            return None;
        }
        // SAFETY: By the type invariants, and as there is some data left.
        let vec = unsafe { bindings::bio_iter_iovec(self.bio.as_ptr(), self.iter) };
        // CAST: The length of a segment.
        self.advance(vec.bv_len as usize);
        // INVARIANT: The bio keeps its data for `'a`.
        Some(Segment {
            vec,
            _data: PhantomData,
        })
    }
}

impl FusedIterator for Segments<'_> {}

/// The data of a bio that is being written, or that has been read.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::{
///     Data,
///     Segments, //
/// };
///
/// /// Whether nothing but zeroes is written, 64 bytes at a time.
/// fn is_zero(data: &Data<'_>) -> Result<bool> {
///     let mut buffer = [0; 64];
///     for offset in (0..data.len()).step_by(buffer.len()) {
///         let some = &mut buffer[..(data.len() - offset).min(64)];
///         data.read(offset, some)?;
///         if some.iter().any(|byte| *byte != 0) {
///             return Ok(false);
///         }
///     }
///     Ok(true)
/// }
///
/// fn longest_segment(data: &Data<'_>) -> usize {
///     let segments: Segments<'_> = data.segments();
///     segments.map(|segment| segment.len()).max().unwrap_or(0)
/// }
/// ```
///
/// # Invariants
///
/// `bio` is valid for `'a` and carries data, and `iter` is where that starts.
pub struct Data<'a> {
    bio: NonNull<bindings::bio>,
    iter: bindings::bvec_iter,
    _data: PhantomData<&'a [u8]>,
}

impl<'a> Data<'a> {
    /// # Safety
    ///
    /// `bio` must be valid for `'a`, carry data, and not be changed. `iter` must be where that
    /// starts.
    #[inline]
    pub(super) unsafe fn new(bio: NonNull<bindings::bio>, iter: bindings::bvec_iter) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            bio,
            iter,
            _data: PhantomData,
        }
    }

    /// Returns the length in bytes, never 0.
    #[inline]
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        // CAST: `usize` has at least 32 bits where there is a block layer.
        self.iter.bi_size as usize
    }

    /// Returns the segments, each of which lies within one page.
    #[inline]
    pub fn segments(&self) -> Segments<'a> {
        // INVARIANT: By our own type invariants.
        Segments {
            bio: self.bio,
            iter: self.iter,
            _data: PhantomData,
        }
    }

    /// The segments of `len` bytes from `offset` on, and maybe more.
    fn range(&self, offset: usize, len: usize) -> Result<Segments<'a>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(EINVAL);
        }
        let mut segments = self.segments();
        segments.advance(offset);
        Ok(segments)
    }

    /// Copies what is at `offset`, in bytes, to `to`.
    ///
    /// [`EINVAL`] if that goes beyond the end. Any context.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result {
        let mut done = 0;
        for segment in self.range(offset, to.len())? {
            if done == to.len() {
                break;
            }
            done += segment.copy_to_slice(&mut to[done..]);
        }
        Ok(())
    }
}

/// The data of a bio that is a read, to be filled in or changed.
///
/// # Examples
///
/// ```
/// use kernel::block::bio::DataMut;
///
/// /// Flips the first byte.
/// fn corrupt(data: &mut DataMut<'_>) -> Result {
///     let mut byte = [0];
///     data.read(0, &mut byte)?;
///     data.write(0, &[!byte[0]])
/// }
/// ```
pub struct DataMut<'a>(Data<'a>);

impl<'a> DataMut<'a> {
    /// # Safety
    ///
    /// As for [`Data::new`], and it must be right to change the data: it is that of a read, and
    /// the device is not writing it.
    #[inline]
    pub(super) unsafe fn new(bio: NonNull<bindings::bio>, iter: bindings::bvec_iter) -> Self {
        // SAFETY: By the safety requirements.
        Self(unsafe { Data::new(bio, iter) })
    }

    /// Copies `from` to `offset`, in bytes.
    ///
    /// [`EINVAL`] if that goes beyond the end. Any context.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Result {
        let mut done = 0;
        for segment in self.0.range(offset, from.len())? {
            if done == from.len() {
                break;
            }
            done += segment.copy_from_slice(&from[done..]);
        }
        Ok(())
    }
}

impl DataMut<'_> {
    /// Sets all bytes to `byte`.
    ///
    /// Any context.
    pub fn fill(&mut self, byte: u8) {
        for segment in self.0.segments() {
            segment.fill(byte);
        }
    }
}

impl<'a> core::ops::Deref for DataMut<'a> {
    type Target = Data<'a>;

    #[inline]
    fn deref(&self) -> &Data<'a> {
        &self.0
    }
}
