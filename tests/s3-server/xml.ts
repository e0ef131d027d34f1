/** As much XML as S3 speaks: elements and text. Strict where real servers are, so that a client's mistake shows. */
import { S3Error } from './errors.ts';

/** An element without attributes: S3 has none that matter here. */
export interface XmlElement {
  readonly name: string;
  readonly children: readonly XmlElement[];
  /** The text right inside it, entities decoded, nothing trimmed. */
  readonly text: string;
}

/** What XML 1.0 allows; a `u` expression takes a lone surrogate for a character of its own, and so refuses it. */
const CHARACTERS = /^[\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]*$/u;
const TOKEN =
  /<\?.*?\?>|<!--.*?-->|<\/([\w:.-]+)\s*>|<([\w:.-]+)((?:\s+[\w:.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(\/?)>|([^<]+)/sy;
const ENTITIES: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

const malformed = (why: string) =>
  new S3Error(
    'MalformedXML',
    `The XML you provided was not well-formed or did not validate against our published schema: ${why}`,
  );

/**
 * Reads a document.
 * @throws S3Error MalformedXML for everything that a conforming parser refuses, raw control characters among it.
 */
export function parseXml(bytes: Uint8Array): XmlElement {
  let source: string;
  try {
    source = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw malformed('it is not UTF-8');
  }
  if (!CHARACTERS.test(source)) throw malformed('it has a character that XML 1.0 does not allow');
  // What a parser does before anything else: a CR that was not escaped arrives as LF.
  source = source.replace(/\r\n?/g, '\n');
  const document = { name: '', children: [] as XmlElement[], text: '' };
  const open = [document];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < source.length) {
    const at = TOKEN.lastIndex;
    const token = TOKEN.exec(source);
    const parent = open.at(-1);
    if (!token || !parent) throw malformed(`unexpected content at ${at}`);
    const [, closing, opening, , empty, text] = token;
    if (closing !== undefined) {
      if (open.length === 1 || parent.name !== closing) throw malformed(`</${closing}> closes nothing`);
      open.pop();
    } else if (opening !== undefined) {
      const element = { name: opening, children: [], text: '' };
      parent.children.push(element);
      if (empty === '') open.push(element);
    } else if (text !== undefined) {
      parent.text += decodeEntities(text);
    }
  }
  const [root] = document.children;
  if (open.length !== 1) throw malformed(`<${open.at(-1)?.name}> is not closed`);
  if (!root || document.children.length > 1) throw malformed('it has not exactly one root element');
  return root;
}

function decodeEntities(text: string): string {
  return text.replace(/&([^;&]*;?)/g, (whole, body: string) => {
    const name = body.endsWith(';') ? body.slice(0, -1) : '';
    const code = /^#(?:x([0-9a-f]+)|([0-9]+))$/i.exec(name);
    if (code) {
      const point = code[1] === undefined ? Number(code[2]) : Number.parseInt(code[1], 16);
      const character = point <= 0x10ffff ? String.fromCodePoint(point) : '\0';
      // A reference to a character that XML 1.0 does not allow is refused as the character itself is.
      if (!CHARACTERS.test(character)) throw malformed(`${whole} is no character of XML 1.0`);
      return character;
    }
    const entity = ENTITIES[name];
    if (entity === undefined) throw malformed(`${whole} is no entity`);
    return entity;
  });
}

/** The first child of a name, or undefined. */
export function child(element: XmlElement, name: string): XmlElement | undefined {
  return element.children.find(candidate => candidate.name === name);
}

/** Text as it stands in a document. Control characters go out as references, as AWS does, well-formed or not. */
export function escapeXml(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must be escaped
    /[&<>"'\u0000-\u001f\u007f-\u009f\u2028\ufffe\uffff]/g,
    character => `&#x${character.charCodeAt(0).toString(16).toUpperCase()};`,
  );
}

/** An element and its text, escaped; left out entirely when there is none. */
export function element(name: string, value: string | number | boolean | undefined): string {
  return value === undefined ? '' : `<${name}>${escapeXml(String(value))}</${name}>`;
}

/** A document with S3's namespace. */
export function xmlDocument(name: string, content: string): string {
  return `<?xml version="1.0" encoding="UTF-8"?>\n<${name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${content}</${name}>`;
}

/** The document that says what went wrong. */
export function errorDocument(code: string, message: string, resource: string): string {
  const content = element('Code', code) + element('Message', message) + element('Resource', resource);
  return `<?xml version="1.0" encoding="UTF-8"?>\n<Error>${content}<RequestId>test</RequestId></Error>`;
}
