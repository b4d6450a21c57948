// Types of embed.js. `/// <reference types="…" />` or a copy beside your own; the script itself is loaded as
// <script src="https://chat.example.com/_gantry/embed.js"> and puts `Gantry` on the window.

declare namespace Gantry {
  /**
   * Puts the chat into an element. On one that has the chat already it gives the same handle again, and opens `room`
   * if that is another one than before.
   *
   * @param target the element, or a selector of it
   * @throws TypeError if there is no such element, or an option cannot be
   */
  function mount(target: Element | string, options?: Options): Handle;

  interface Options {
    /**
     * Where the chat is, such as `'https://chat.example.com'`; with a path where Rocket.Chat has one. Default: where
     * this script was loaded from.
     */
    chat?: string;
    /** The prefix of Gantry's own paths. Default: that of this script, or `'/_gantry/'`. */
    prefix?: string;
    /** The room to begin with: a channel's name, or a path such as `'/group/board'`. Default: the last one, or home. */
    room?: string;
    /** `'embedded'` (default) is the room alone, `'full'` the whole client with its side bar. */
    layout?: 'embedded' | 'full';
    /**
     * Whether the room is remembered in this tab, and the frame kept while another page takes the place of this one
     * without being loaded. Default: true.
     */
    keep?: boolean;
    /**
     * Gives the bearer token of your user, for apps whose session is no cookie: `''` or `null` when nobody is signed
     * in. Asked when the chat has loaded, when it has no session, shortly before a JWT expires, and when the page
     * is come back to. A rejection is told as an error, and it is asked again.
     */
    bearer?: (() => string | null | Promise<string | null>) | null;
    /** Pixels, or any CSS length. Default: the container's height, or most of the window where it has none. */
    height?: number | string;
    /** Pixels, or any CSS length. Default: `'100%'`. */
    width?: number | string;
    /** What screen readers call the frame. Default: `'Chat'`. */
    title?: string;
    /** `'lazy'` waits until the frame is near the screen; there are no events before. Default: `'eager'`. */
    loading?: 'eager' | 'lazy';
    /** The frame's `allow`, instead of what calls, sharing a screen, files and the clipboard need. */
    allow?: string;
    /** `true` for a sandbox that cannot take this page elsewhere; or the frame's `sandbox`. Default: none. */
    sandbox?: boolean | string;
  }

  interface Handle {
    /** The frame. */
    readonly frame: HTMLIFrameElement;
    /** Who is signed in to the chat, as far as it has said. */
    readonly user: User | null;
    /** Opens a room without loading the frame again; waits until the chat is ready. */
    open(room: string): void;
    /** Ends the chat session. True once it is known to be over; false, and an `error`, where it is not. */
    logout(): Promise<boolean>;
    /** Lets in again who has logged out of the chat; the chat offers the same, but for bearer sessions. */
    signIn(): void;
    /** Your session has changed: has the chat look at it now. */
    check(): void;
    /**
     * Keeps the frame alive while your router takes the container away; the next `mount` takes it over. Called by
     * itself for Turbo, htmx and Astro. False where the browser cannot (no `moveBefore`).
     */
    hold(): boolean;
    /** Listens. Whoever comes late hears the last one of this event at once. Gives a function that ends it. */
    on<E extends keyof Events>(event: E, fn: (detail: Events[E]) => void): () => void;
    /** Listens no more. */
    off<E extends keyof Events>(event: E, fn: (detail: Events[E]) => void): void;
    /** Takes the frame away, and everything with it. The chat session lives on. */
    destroy(): void;
  }

  interface User {
    id: string;
    username: string;
  }

  interface Ready {
    /** Whether Gantry's script is in the chat's pages; without it there is less to hear. */
    guard: boolean;
    /** That script's version. */
    version?: string;
  }

  interface SignedOut {
    /** `'logout'`: somebody logged out of the chat. Otherwise the host session is another one's, or over. */
    reason: 'logout' | 'switched' | 'ended' | (string & {});
  }

  interface Failure {
    /** What the callback refused with, or what this script found; there may be more one day. */
    code: Refusal | ErrorCode | (string & {});
    /** For people; in English. */
    message: string;
    /** What Gantry's log has it under. */
    id?: string;
  }

  /** Codes of Gantry's callback. */
  type Refusal =
    | 'no_session'
    | 'signed_out'
    | 'origin_not_allowed'
    | 'user_inactive'
    | 'user_not_allowed'
    | 'seat_limit'
    | 'identity_conflict'
    | 'session_check_unavailable'
    | 'rocketchat_unavailable'
    | 'rate_limited'
    | 'misconfigured';

  /** Codes of the two scripts' own. */
  type ErrorCode =
    | 'frame_silent'
    | 'bearer_failed'
    | 'login_refused'
    | 'unreachable'
    | 'storage_blocked'
    | 'repeated'
    | 'unexpected';

  interface Unread {
    /** What Rocket.Chat shows in its title: mentions and direct messages. */
    count: number;
  }

  interface Room {
    /** Good for `open`. */
    path: string;
    name?: string;
    id?: string;
  }

  interface Events {
    /** The chat has loaded and listens. Once. */
    'ready': Ready;
    'signed-in': User;
    'signed-out': SignedOut;
    'error': Failure;
    'unread': Unread;
    'room': Room;
  }

  /** `<gantry-chat room="general">`: options are attributes, but for `bearer`, which is a property. */
  interface ChatElement extends HTMLElement {
    readonly handle: Handle | null;
    bearer: Options['bearer'];
  }
}

interface HTMLElementTagNameMap {
  'gantry-chat': Gantry.ChatElement;
}

/** Events are dispatched on the container too, and bubble. */
interface HTMLElementEventMap {
  'gantry-ready': CustomEvent<Gantry.Ready>;
  'gantry-signed-in': CustomEvent<Gantry.User>;
  'gantry-signed-out': CustomEvent<Gantry.SignedOut>;
  'gantry-error': CustomEvent<Gantry.Failure>;
  'gantry-unread': CustomEvent<Gantry.Unread>;
  'gantry-room': CustomEvent<Gantry.Room>;
}
