// SPDX-License-Identifier: GPL-2.0
//~ E0277: the state is dropped by a worker
struct State(kernel::types::NotThreadSafe); //~ bad
struct State(u32); //~ good

// SAFETY: For the sake of the test.
unsafe impl Sync for State {}

struct Mine(State);

#[vtable]
impl BlkFilter for Mine { //~ bad
impl BlkFilter for Mine { //~ good
    const NAME: &'static CStr = c"mine";
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Err::<Self, _>(ENXIO)
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass()
    }
}
