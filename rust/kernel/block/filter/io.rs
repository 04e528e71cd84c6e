// SPDX-License-Identifier: GPL-2.0

//! I/O of a filter's own, below itself.

use super::{
    BlkFilter,
    Context, //
};
use crate::{
    alloc::{
        flags::__GFP_ZERO,
        Flags, //
    },
    bindings,
    block::bio::{
        BlkStatus,
        Op,
        ReqFlags, //
    },
    error::to_result,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Completion,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// What C wants to remember of a bio that it submits for us: it lies before the bio.
const FRONT_PAD: usize = size_of::<bindings::bdev_filter_io>();
static_assert!(
    FRONT_PAD % align_of::<bindings::bio>() == 0,
    "the bio after it must be aligned"
);

/// A pool that bios are allocated from, so that there are some when memory is short.
///
/// # Examples
///
/// ```
/// use kernel::block::filter::BioSet;
///
/// let bios = KBox::pin_init(BioSet::new(4), GFP_KERNEL)?;
/// # drop(bios);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// Initialized, with vectors and with `FRONT_PAD` bytes before each bio.
#[pin_data(PinnedDrop)]
pub struct BioSet {
    #[pin]
    raw: Opaque<bindings::bio_set>,
}

// SAFETY: A `bio_set` can be used, and ended, by any thread.
unsafe impl Send for BioSet {}
// SAFETY: A `bio_set` has its own locking.
unsafe impl Sync for BioSet {}

impl BioSet {
    /// Makes a pool of `reserved` bios that can be in use even if memory is short.
    ///
    /// Process context, may sleep.
    pub fn new(reserved: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            raw <- Opaque::try_ffi_init(move |set: *mut bindings::bio_set| {
                // SAFETY: It is pinned and zeroed, as the function wants it. On failure it has
                // cleaned up.
                // CAST: Small numbers.
                to_result(unsafe {
                    set.write_bytes(0, 1);
                    bindings::bioset_init(
                        set,
                        reserved,
                        FRONT_PAD as c_uint,
                        bindings::BIOSET_NEED_BVECS as c_int,
                    )
                })
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for BioSet {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is initialized. Whoever has a bio of it borrows it.
        unsafe { bindings::bioset_exit(self.raw.get()) };
    }
}

/// A page of memory for the data of bios of our own.
///
/// It holds bytes and nothing else. A [`Page`] can be the memory of values of any type, which a
/// read from a disk must not write to.
///
/// # Examples
///
/// ```
/// use kernel::block::filter::BioPage;
///
/// let mut page = BioPage::new(GFP_KERNEL)?;
/// page.write(510, &[0x55, 0xaa])?;
/// let mut end = [0xff; 4];
/// page.read(508, &mut end)?;
/// assert_eq!(end, [0, 0, 0x55, 0xaa]);
/// assert_eq!(page.read(4093, &mut end), Err(EINVAL));
/// # Ok::<(), Error>(())
/// ```
pub struct BioPage(Page);

impl BioPage {
    /// Allocates a page, with zeroes in it.
    ///
    /// May sleep if `flags` say so.
    pub fn new(flags: Flags) -> Result<Self> {
        Ok(Self(Page::alloc_page(flags | __GFP_ZERO)?))
    }

    /// Copies bytes out of the page, from `offset` on.
    ///
    /// [`EINVAL`] if they are not within the page. Any context.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result {
        // SAFETY: `to` can be written to, and nobody writes to the page: not us, and no bio, which
        // would have borrowed it exclusively.
        unsafe { self.0.read_raw(to.as_mut_ptr(), offset, to.len()) }
    }

    /// Copies bytes into the page, from `offset` on.
    ///
    /// [`EINVAL`] if they are not within the page. Any context.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Result {
        // SAFETY: `from` can be read, and nobody else has the page.
        unsafe { self.0.write_raw(from.as_ptr(), offset, from.len()) }
    }
}

/// A bio of our own, not submitted yet.
///
/// # Examples
///
/// ```
/// use kernel::{
///     block::filter::{
///         BioPage,
///         NewBio, //
///     },
///     page::PAGE_SIZE, //
/// };
///
/// /// Adds all pages, each of them whole.
/// fn add_pages<'a>(bio: &mut NewBio<'a>, pages: &'a mut [BioPage]) -> Result {
///     pages.iter_mut().try_for_each(|page| bio.add_page(page, 0, PAGE_SIZE))
/// }
/// ```
///
/// # Invariants
///
/// `bio` was allocated from a [`BioSet`] that is borrowed for `'a`, and nobody else has it.
pub struct NewBio<'a> {
    bio: NonNull<bindings::bio>,
    _set_and_pages: PhantomData<(&'a BioSet, &'a mut BioPage)>,
}

impl<'a> NewBio<'a> {
    /// See [`Context::new_bio`].
    fn alloc(set: &'a BioSet, op: Op, flags: ReqFlags, sector: u64, nr_vecs: u16) -> Result<Self> {
        let is_data = op == Op::READ || op == Op::WRITE;
        if !is_data || u32::from(nr_vecs) > bindings::BIO_MAX_VECS {
            return Err(EINVAL);
        }
        // Not those that say something about other fields of the bio they come from.
        let flags = u32::from(flags) & ReqFlags::all_bits();
        // SAFETY: By the type invariants of `BioSet`. A bio may be without a device for now.
        let bio = unsafe {
            bindings::bio_alloc_bioset(
                core::ptr::null_mut(),
                nr_vecs,
                op.as_raw() | flags,
                bindings::GFP_NOIO,
                set.raw.get(),
            )
        };
        let bio = NonNull::new(bio).ok_or(ENOMEM)?;
        // SAFETY: It is ours.
        unsafe { (*bio.as_ptr()).bi_iter.bi_sector = sector };
        // INVARIANT: As it says.
        Ok(Self {
            bio,
            _set_and_pages: PhantomData,
        })
    }

    /// Adds `len` bytes of a page, starting at `offset`.
    ///
    /// For a read that is where the data goes. [`EINVAL`] if it is not within the page or nothing,
    /// or if the operation takes no data; [`ENOSPC`] if the bio is full.
    pub fn add_page(&mut self, page: &'a mut BioPage, offset: usize, len: usize) -> Result {
        // SAFETY: By the type invariants.
        let op = Op::from_opf(unsafe { (*self.bio.as_ptr()).bi_opf });
        let fits = offset.checked_add(len).is_some_and(|end| end <= PAGE_SIZE);
        if !fits || len == 0 || !op.has_data() {
            return Err(EINVAL);
        }
        let page = page.0.as_ptr();
        // SAFETY: By the type invariants. The page is borrowed for as long as the bio exists, and
        // for nobody else; whatever bytes are written to it are valid.
        // CAST: Both are at most `PAGE_SIZE`.
        let added =
            unsafe { bindings::bio_add_page(self.bio.as_ptr(), page, len as u32, offset as u32) };
        if added == 0 {
            return Err(ENOSPC);
        }
        Ok(())
    }

    fn as_raw(&self) -> *mut bindings::bio {
        self.bio.as_ptr()
    }
}

impl Drop for NewBio<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants; it has been allocated with one reference.
        unsafe { bindings::bio_put(self.bio.as_ptr()) };
    }
}

impl<T: BlkFilter> Context<'_, T> {
    /// Allocates a bio from a pool that the filter has, with room for `nr_vecs` stretches of
    /// memory. It is for `sector` and those after, in units of 512 bytes, relative to the device.
    ///
    /// [`EINVAL`] if that is more than a bio can have, or if the operation is neither a read nor a
    /// write; a write without data that has [`ReqFlag::Preflush`] is a flush. Flags that
    /// [`ReqFlag`] does not name are left out.
    ///
    /// May sleep, without starting I/O. Waits if there is no memory, which only helps if there are
    /// fewer bios of the pool in use than it has in reserve.
    ///
    /// [`ReqFlag`]: crate::block::bio::ReqFlag
    /// [`ReqFlag::Preflush`]: crate::block::bio::ReqFlag::Preflush
    pub fn new_bio<'b>(
        &self,
        bios: &'b BioSet,
        op: Op,
        flags: ReqFlags,
        sector: u64,
        nr_vecs: u16,
    ) -> Result<NewBio<'b>> {
        NewBio::alloc(bios, op, flags, sector, nr_vecs)
    }

    /// Submits a bio to the device below the filter, and waits for it.
    ///
    /// If that is the filter of a partition, the one of the disk sees the bio.
    ///
    /// [`ENODEV`] if the device is being removed, [`EINVAL`] if the bio goes beyond its end, is not
    /// made of whole [logical blocks] or is empty and no flush, else the error that it ended with.
    ///
    /// [logical blocks]: crate::block::bdev::BlockDevice::logical_block_size
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::{
    ///     block::{
    ///         bio::{
    ///             Op,
    ///             ReqFlags, //
    ///         },
    ///         filter::{
    ///             BioPage,
    ///             BioSet,
    ///             BlkFilter,
    ///             Context, //
    ///         }, //
    ///     }, //
    /// };
    ///
    /// /// The last byte of a sector of the device that the filter is on, in its `process`.
    /// fn last_byte<T: BlkFilter>(cx: &Context<'_, T>, bios: &BioSet, at: u64) -> Result<u8> {
    ///     let mut page = BioPage::new(GFP_KERNEL)?;
    ///     let mut bio = cx.new_bio(bios, Op::READ, ReqFlags::default(), at, 1)?;
    ///     bio.add_page(&mut page, 0, 512)?;
    ///     cx.submit_and_wait(bio)?;
    ///
    ///     let mut byte = [0];
    ///     page.read(511, &mut byte)?;
    ///     Ok(byte[0])
    /// }
    /// ```
    pub fn submit_and_wait(&self, bio: NewBio<'_>) -> Result {
        /// # Safety
        ///
        /// To be called by C for the bio that was submitted below.
        unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
            // SAFETY: `submit_and_wait` put it there, and waits for this.
            unsafe { (*(*bio).bi_private.cast::<Completion>()).complete_all() };
        }

        pin_init::stack_pin_init!(let done = Completion::new());
        let raw = bio.as_raw();
        // SAFETY: The bio is ours.
        unsafe {
            (*raw).bi_private = core::ptr::from_ref(&*done).cast_mut().cast();
            (*raw).bi_end_io = Some(end_io);
        }
        // SAFETY: By the type invariants of `BioSet` there is room for it, and it is ours.
        let io = unsafe { raw.byte_sub(FRONT_PAD) }.cast();
        // SAFETY: By the type invariants the filter is not released. `io` and all that the bio
        // refers to stay until `end_io` has been called, as we wait for that.
        to_result(unsafe { bindings::bdev_filter_submit_below(self.filter, raw, io) })?;
        done.wait_for_completion();
        // SAFETY: It has completed: it is ours again.
        BlkStatus::from_raw(unsafe { (*raw).bi_status }).to_result()
    }
}
