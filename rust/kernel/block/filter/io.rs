// SPDX-License-Identifier: GPL-2.0

//! I/O of a filter's own, below itself.

use super::{
    BlkFilter,
    Context,
    DetachedContext,
    OwnedBio, //
};
use crate::{
    alloc::{
        flags::__GFP_ZERO,
        Flags, //
    },
    bindings,
    block::bio::{
        Op,
        ReqFlags, //
    },
    error::to_result,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

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
/// Initialized, with vectors. `in_use` is how many bios of it there are.
#[pin_data(PinnedDrop)]
pub struct BioSet {
    #[pin]
    raw: Opaque<bindings::bio_set>,
    in_use: Atomic<i64>,
}

// SAFETY: A `bio_set` can be used, and ended, by any thread.
unsafe impl Send for BioSet {}
// SAFETY: A `bio_set` has its own locking.
unsafe impl Sync for BioSet {}

impl BioSet {
    /// Makes a pool of `reserved` bios, at most 1024, that can be in use even if memory is short.
    ///
    /// Process context, may sleep.
    pub fn new(reserved: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            raw <- Opaque::try_ffi_init(move |set: *mut bindings::bio_set| {
                if reserved > 1024 {
                    return Err(EINVAL);
                }
                // SAFETY: It is pinned and zeroed, as the function wants it. On failure it has
                // cleaned up.
                // CAST: A flag.
                to_result(unsafe {
                    set.write_bytes(0, 1);
                    bindings::bioset_init(
                        set,
                        reserved,
                        0,
                        bindings::BIOSET_NEED_BVECS as c_int,
                    )
                })
            }),
            in_use: Atomic::new(0),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for BioSet {
    fn drop(self: Pin<&mut Self>) {
        // A bio that was leaked is of a pool for ever. What is left of that has no pointer to us,
        // as the pool has neither a rescuer nor a cache for each CPU.
        if self.in_use.load(Relaxed) != 0 {
            pr_warn!("a pool of bios is leaked with its last bio\n");
            return;
        }
        // SAFETY: It is initialized, and there is no bio of it.
        unsafe { bindings::bioset_exit(self.raw.get()) };
    }
}

/// A page of memory for the data of bios of our own.
///
/// Its bytes are initialized, and nobody else has them.
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
/// `bio` was allocated from `set` and is counted there, and nobody else has it.
pub struct NewBio<'a> {
    bio: NonNull<bindings::bio>,
    set: &'a BioSet,
    _pages: PhantomData<&'a mut BioPage>,
}

impl<'a> NewBio<'a> {
    /// Adds `len` bytes of a page, starting at `offset`.
    ///
    /// For a read that is where the data goes. Returns [`EINVAL`] if `len` is 0, if the range does
    /// not fit in the page, or if the operation carries no data; [`ENOSPC`] if the bio is full.
    ///
    /// Most devices want `offset` and `len` to be multiples of 512; the bio is refused if they are
    /// not as the device wants them.
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
        // It borrows the pool, so nobody looks at the count in between.
        self.set.in_use.add(-1, Relaxed);
    }
}

impl<'a> NewBio<'a> {
    /// Allocates a bio from a pool, with room for `nr_vecs` stretches of memory. It is for `sector`
    /// and those after, in units of 512 bytes, relative to the device.
    ///
    /// [`EINVAL`] if that is more than a bio can have, or if the operation is neither a read nor a
    /// write; a write without data that has [`ReqFlag::Preflush`] is a flush. Flags that
    /// [`ReqFlag`] does not name are left out.
    ///
    /// May sleep if `gfp` says so. It then does not fail for lack of memory, but blocks until a bio
    /// is returned to the pool, which can deadlock if the caller holds all `reserved` bios. Else
    /// [`ENOMEM`].
    ///
    /// [`ReqFlag`]: crate::block::bio::ReqFlag
    /// [`ReqFlag::Preflush`]: crate::block::bio::ReqFlag::Preflush
    pub fn new(
        set: &'a BioSet,
        op: Op,
        flags: ReqFlags,
        sector: u64,
        nr_vecs: u16,
        gfp: Flags,
    ) -> Result<Self> {
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
                gfp.as_raw(),
                set.raw.get(),
            )
        };
        let bio = NonNull::new(bio).ok_or(ENOMEM)?;
        // SAFETY: It is ours.
        unsafe { (*bio.as_ptr()).bi_iter.bi_sector = sector };
        // INVARIANT: It has just been allocated, and is counted.
        set.in_use.add(1, Relaxed);
        Ok(Self {
            bio,
            set,
            _pages: PhantomData,
        })
    }
}

/// Submits a bio below a filter and waits for it.
///
/// # Safety
///
/// `filter` must be one that is not released. `owned` must be a bio that it took, and that is not
/// finished before this returns, or null in its `detached` method.
unsafe fn submit_and_wait(
    filter: *mut bindings::bdev_filter,
    owned: *mut bindings::bio,
    bio: NewBio<'_>,
) -> Result {
    // SAFETY: By the safety requirements. The bio is ours, and it and its pages stay until it has
    // completed, as this waits for that.
    to_result(unsafe { bindings::bdev_filter_submit_wait(filter, owned, bio.as_raw()) })
}

impl<T: BlkFilter> Context<'_, T> {
    /// Submits a bio to the device below the filter, and waits for it.
    ///
    /// If that is the filter of a partition, the one of the disk sees the bio.
    ///
    /// It is submitted on behalf of `owned`: whoever submitted that has the device open, and its
    /// control group and priority are those of `bio`.
    ///
    /// [`ENODEV`] if the device is being removed, [`EROFS`] for a write to a device that is
    /// read-only, [`EINVAL`] if `owned` is of another device than `self`, or if `bio` goes beyond
    /// the end of the device, is not made of whole [logical blocks], has memory that is not aligned
    /// as the device wants it, is empty and no flush, or has flush flags and is no write; else the
    /// error that it ended with.
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
    ///             Context,
    ///             NewBio,
    ///             OwnedBio, //
    ///         }, //
    ///     }, //
    /// };
    ///
    /// /// The last byte of the sector before that of a bio, in the `process` of a filter.
    /// fn byte_before<T: BlkFilter>(
    ///     cx: &Context<'_, T>,
    ///     owned: &OwnedBio<T>,
    ///     bios: &BioSet,
    /// ) -> Result<u8> {
    ///     let at = owned.sector().checked_sub(1).ok_or(ERANGE)?;
    ///     let mut page = BioPage::new(GFP_KERNEL)?;
    ///     let mut bio = NewBio::new(bios, Op::READ, ReqFlags::default(), at, 1, GFP_KERNEL)?;
    ///     bio.add_page(&mut page, 0, 512)?;
    ///     cx.submit_and_wait(owned, bio)?;
    ///
    ///     let mut byte = [0];
    ///     page.read(511, &mut byte)?;
    ///     Ok(byte[0])
    /// }
    /// ```
    pub fn submit_and_wait(&self, owned: &OwnedBio<T>, bio: NewBio<'_>) -> Result {
        if !self.owns(owned) {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants of `OwnedBio`, which is borrowed until this returns.
        unsafe { submit_and_wait(self.filter, owned.as_raw(), bio) }
    }
}

impl<T: BlkFilter> DetachedContext<'_, T> {
    /// Submits a bio to the device that the filter was on, and waits for it.
    ///
    /// The device has been opened for that. Otherwise as [`Context::submit_and_wait`].
    pub fn submit_and_wait(&self, bio: NewBio<'_>) -> Result {
        const_assert!(
            T::SAVES,
            "a filter that does I/O in `detached` must have SAVES"
        );
        // SAFETY: By the type invariants this is `detached`.
        unsafe { submit_and_wait(self.filter, core::ptr::null_mut(), bio) }
    }
}
