// SPDX-License-Identifier: GPL-2.0
//~ E0277: what attach gets from the module is shared
struct Mine;

#[vtable]
impl BlkFilter for Mine {
    const NAME: &'static CStr = c"mine";
    type RegistrationData = Cell<u32>; //~ bad
    type RegistrationData = u32; //~ good

    fn attach(_: AttachInfo<'_>, _: &Self::RegistrationData) -> impl PinInit<Self, Error> {
        Err::<Self, _>(ENXIO)
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass()
    }
}
