// SPDX-License-Identifier: GPL-2.0
//~ E0451: where sleeping is allowed is not made up
fn process<'a>(cx: &Context<'a, Good>) {
    let cx: Context<'a, Good> = Context { ..*cx }; //~ bad
}
